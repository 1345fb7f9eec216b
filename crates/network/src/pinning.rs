//! Who may connect: TLS 1.3 with both sides' keys pinned.
//!
//! The certificate itself is not judged, neither its dates nor its name nor its signature: only the key in it counts,
//! and TLS proves that the other side holds that key. Sessions are never resumed, as a resumed one would skip the
//! check of a key that was removed meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use consensus::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::Resumption;
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};

use crate::identity::{Identity, PublicKey};

/// Makes the arithmetic provider; named here once, so that no process-wide default is relied on.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The keys of the peers as the caller last set them.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<PublicKey, NodeId>>);

impl Pins {
    pub(crate) fn set(&self, pins: BTreeMap<PublicKey, NodeId>) {
        *self.0.lock().expect("no panic while holding the pins") = pins;
    }

    pub(crate) fn node_of(&self, key: &PublicKey) -> Option<NodeId> {
        self.0.lock().expect("no panic while holding the pins").get(key).copied()
    }
}

/// The key in a certificate.
pub(crate) fn key_of(certificate: &CertificateDer<'_>) -> Result<PublicKey, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(PublicKey::from_bytes(parsed.subject_public_key_info().as_ref()))
}

/// Settings for accepted connections: any pinned key may come in. The hello then says which peer it is.
pub(crate) fn server_config(identity: &Identity, pins: Arc<Pins>) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let verifier = Arc::new(PinnedClients { pins, provider: Arc::clone(&provider) });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate()], identity.private_key())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Settings for dialling one peer: only its key is let in.
pub(crate) fn client_config(identity: &Identity, expected: PublicKey) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier = Arc::new(PinnedServer { expected, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The key was read, and it is not one of ours.
#[derive(Debug)]
pub(crate) struct KeyRefused {
    pub(crate) key: PublicKey,
    pub(crate) expected: Option<PublicKey>,
}

impl fmt::Display for KeyRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.expected {
            Some(expected) => write!(f, "its public key is {}, not {expected} as recorded for this peer", self.key),
            None => write!(f, "its public key {} belongs to no peer of this node", self.key),
        }
    }
}

impl std::error::Error for KeyRefused {}

fn refusal(key: PublicKey, expected: Option<PublicKey>) -> Error {
    let refused = KeyRefused { key, expected };
    CertificateError::Other(rustls::OtherError(Arc::new(refused))).into()
}

/// Whether a failed handshake failed for the other side's key, and how.
pub(crate) fn key_refused(error: &std::io::Error) -> Option<&KeyRefused> {
    let tls = error.get_ref()?.downcast_ref::<Error>()?;
    let Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(other))) = tls else {
        return None;
    };
    other.downcast_ref::<KeyRefused>()
}

/// Whether a connection failed because the other side does not take this node's key: [`PinnedClients`] there found it to be nobody's.
pub(crate) fn own_key_refused(error: &std::io::Error) -> bool {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    matches!(tls, Some(Error::AlertReceived(rustls::AlertDescription::CertificateUnknown)))
}

#[derive(Debug)]
struct PinnedClients {
    pins: Arc<Pins>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for PinnedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let key = key_of(certificate)?;
        match self.pins.node_of(&key) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(refusal(key, None)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct PinnedServer {
    expected: PublicKey,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = key_of(certificate)?;
        if key == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refusal(key, Some(self.expected.clone())))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
