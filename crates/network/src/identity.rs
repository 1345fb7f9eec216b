//! A node's key pair: made on first start, kept in a file that only its owner reads, never sent anywhere.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PublicKeyData, PKCS_ED25519};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The name in every certificate; nobody relies on it.
pub(crate) const CERTIFICATE_NAME: &str = "synod";

/// Name of the key's file in the directory given.
const KEY_FILE: &str = "key.pem";

/// A node's public key: the DER form of its X.509 SubjectPublicKeyInfo.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Takes the bytes that [`as_bytes`](Self::as_bytes) gave on the key's node. They are compared, never parsed:
    /// wrong bytes match no peer.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes to hand to peers.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The last eight bytes in hexadecimal: enough to tell keys apart in a log line.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = &self.0[self.0.len().saturating_sub(8)..];
        f.write_str("..")?;
        tail.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Why a key pair could not be loaded or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file or its directory cannot be read or written.
    #[error("could not {doing} \"{}\": {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read the private key.
    #[error("private key file \"{}\" has mode {mode:04o}: it must not be accessible to group or others (chmod 600)", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold a key.
    #[error("private key file \"{}\" is damaged: {detail}; a node without its key must join as a new node", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// No key could be made.
    #[error("could not make a key pair: {0}")]
    Generate(rcgen::Error),
}

/// A node's key pair with its self-signed certificate.
#[derive(Clone)]
pub struct Identity {
    public_key: PublicKey,
    certificate: CertificateDer<'static>,
    private_key: Arc<PrivateKeyDer<'static>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads the key pair kept in `directory` (file `key.pem`), or makes one and keeps it there, synced, with mode
    /// 0600, before it is used.
    pub fn load_or_create(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(KEY_FILE);
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { doing, path, source }
        };
        match fs::metadata(&path) {
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o7777;
                if mode & 0o077 != 0 {
                    return Err(IdentityError::Exposed { path, mode });
                }
                let pem = fs::read_to_string(&path).map_err(failed("read", &path))?;
                KeyPair::from_pem(&pem)
                    .and_then(|key_pair| Self::from_key_pair(&key_pair))
                    .map_err(|error| IdentityError::Damaged { path, detail: error.to_string() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key_pair = KeyPair::generate_for(&PKCS_ED25519).map_err(IdentityError::Generate)?;
                let identity = Self::from_key_pair(&key_pair).map_err(IdentityError::Generate)?;
                write_synced(directory, &path, key_pair.serialize_pem().as_bytes()).map_err(failed("write", &path))?;
                Ok(identity)
            }
            Err(source) => Err(failed("read", &path)(source)),
        }
    }

    /// The key to give to peers.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        self.private_key.clone_key()
    }

    fn from_key_pair(key_pair: &KeyPair) -> Result<Self, rcgen::Error> {
        let certificate = CertificateParams::new([CERTIFICATE_NAME.to_owned()])?.self_signed(key_pair)?;
        let private_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_pair.serialize_der()));
        // A key that TLS could not use is found out here and not at the first connection.
        ring::sign::any_supported_type(&private_key).map_err(|_| rcgen::Error::UnsupportedSignatureAlgorithm)?;
        Ok(Self {
            public_key: PublicKey(key_pair.subject_public_key_info()),
            certificate: certificate.der().clone(),
            private_key: Arc::new(private_key),
        })
    }
}

/// Writes a new file by way of a temporary one, so that a crash leaves either no key or a whole one.
fn write_synced(directory: &Path, path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("pem.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    // A file left by an earlier attempt keeps the mode that it had.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let made = Identity::load_or_create(directory.path()).unwrap();
        let loaded = Identity::load_or_create(directory.path()).unwrap();
        assert_eq!(made.public_key(), loaded.public_key());
        let mode = fs::metadata(directory.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!directory.path().join("key.pem.new").exists());
    }

    #[test]
    fn a_readable_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        Identity::load_or_create(directory.path()).unwrap();
        let path = directory.path().join(KEY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load_or_create(directory.path()).unwrap_err();
        assert!(error.to_string().contains("has mode 0640"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KEY_FILE);
        for contents in ["", "not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = Identity::load_or_create(directory.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Identity::load_or_create(Path::new("/nonexistent/directory")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/directory/key.pem"), "{error}");
    }
}
