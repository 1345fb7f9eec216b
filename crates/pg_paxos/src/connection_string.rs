//! Connection strings: checked, completed and freed of secrets before anything is stored or shown.
//!
//! libpq does the parsing, so both forms (`host=a port=5432` and `postgresql://a:5432/`) mean what they mean to `psql`.
//! What goes into the group's log, and what errors and views show, never holds a password.

use std::ffi::{CStr, CString};
use std::fmt;

use crate::libpq;

/// A parsed connection string.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    settings: Vec<Setting>,
}

#[derive(Clone, PartialEq, Eq)]
struct Setting {
    keyword: String,
    value: String,
    secret: bool,
}

impl ConnectionString {
    /// Parses either form that libpq knows. The error is libpq's own sentence.
    pub fn parse(text: &str) -> Result<ConnectionString, String> {
        let text = CString::new(text).map_err(|_| "the string holds a zero byte".to_owned())?;
        let mut message = std::ptr::null_mut();
        // SAFETY: both pointers are valid for the call; libpq allocates what it returns, freed below.
        let options = unsafe { libpq::PQconninfoParse(text.as_ptr(), &mut message) };
        if options.is_null() {
            if message.is_null() {
                return Err("out of memory".to_owned());
            }
            // SAFETY: libpq set a terminated message, which is ours to free.
            let sentence = unsafe {
                let sentence = CStr::from_ptr(message).to_string_lossy().trim().to_owned();
                libpq::PQfreemem(message.cast());
                sentence
            };
            return Err(sentence);
        }
        let mut settings = Vec::new();
        // SAFETY: the array ends with a null keyword; its strings live until PQconninfoFree.
        unsafe {
            let mut option = options;
            while !(*option).keyword.is_null() {
                if !(*option).val.is_null() {
                    let owned = |pointer| CStr::from_ptr(pointer).to_string_lossy().into_owned();
                    settings.push(Setting {
                        keyword: owned((*option).keyword),
                        value: owned((*option).val),
                        secret: !(*option).dispchar.is_null() && *(*option).dispchar == b'*' as std::ffi::c_char,
                    });
                }
                option = option.add(1);
            }
            libpq::PQconninfoFree(options);
        }
        Ok(ConnectionString { settings })
    }

    /// The older pg_paxos form: a host and a port.
    pub fn of_host(host: &str, port: i32) -> ConnectionString {
        let setting = |keyword: &str, value: String| Setting { keyword: keyword.to_owned(), value, secret: false };
        ConnectionString { settings: vec![setting("host", host.to_owned()), setting("port", port.to_string())] }
    }

    /// What the string says for a keyword, if anything.
    pub fn value(&self, keyword: &str) -> Option<&str> {
        self.settings.iter().find(|setting| setting.keyword == keyword).map(|setting| setting.value.as_str())
    }

    /// The same string, with a keyword set where it says nothing.
    pub fn with_default(mut self, keyword: &str, value: &str) -> ConnectionString {
        if self.value(keyword).is_none() {
            self.settings.push(Setting { keyword: keyword.to_owned(), value: value.to_owned(), secret: false });
        }
        self
    }

    /// The same string without its secrets, its settings in the order of their names: two that are equal name the
    /// same server.
    pub fn without_secrets(&self) -> ConnectionString {
        let mut settings: Vec<Setting> = self.settings.iter().filter(|setting| !setting.secret).cloned().collect();
        settings.sort_by(|left, right| left.keyword.cmp(&right.keyword));
        ConnectionString { settings }
    }

    /// Whether it carries a password or another secret.
    pub fn has_secret(&self) -> bool {
        self.settings.iter().any(|setting| setting.secret)
    }

    /// Whether it carries a password.
    pub fn has_password(&self) -> bool {
        self.value("password").is_some_and(|password| !password.is_empty())
    }

    /// Whether everything it names is on this machine: a Unix socket or a loopback address.
    pub fn is_local(&self) -> bool {
        let hosts = self.value("hostaddr").or(self.value("host")).unwrap_or("");
        hosts.split(',').all(|host| {
            host.is_empty()
                || host.starts_with(['/', '@'])
                || host == "localhost"
                || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        })
    }

    /// Whether the connection proves whom it reached.
    pub fn is_verified(&self) -> bool {
        matches!(self.value("sslmode"), Some("verify-full" | "verify-ca"))
    }

    /// How errors name the server: its host and port.
    pub fn server(&self) -> String {
        let host = self.value("host").or(self.value("hostaddr")).or(self.value("service")).unwrap_or("local socket");
        match self.value("port") {
            Some(port) => format!("{host} port {port}"),
            None => host.to_owned(),
        }
    }

    /// The settings with their secrets, for libpq alone.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings.iter().map(|setting| (setting.keyword.as_str(), setting.value.as_str()))
    }
}

/// Without secrets: this is what may be stored and shown.
impl fmt::Display for ConnectionString {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for setting in self.settings.iter().filter(|setting| !setting.secret) {
            let plain = !setting.value.is_empty()
                && setting.value.chars().all(|character| !character.is_whitespace() && !"'\\".contains(character));
            if plain {
                write!(formatter, "{separator}{}={}", setting.keyword, setting.value)?;
            } else {
                let quoted = setting.value.replace('\\', "\\\\").replace('\'', "\\'");
                write!(formatter, "{separator}{}='{quoted}'", setting.keyword)?;
            }
            separator = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ConnectionString({self})")
    }
}
