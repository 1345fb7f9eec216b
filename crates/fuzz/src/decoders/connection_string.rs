//! Connection strings, which users type and other servers hand on. The file is the extension's own: libpq parses, the
//! rest is text, and nothing in it needs a server.

use super::values::text;
use crate::connection_string::ConnectionString;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};

/// A string is kept per setting, with its name; quoting may double it. What libpq takes for itself is not counted.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 32 };

/// `ConnectionString::parse`.
pub const TARGET: Target = Target { name: "connection_string", run, encode, memory: MEMORY, executions: 10_000 };

fn run(bytes: &[u8]) {
    if let Ok(parsed) = ConnectionString::parse(&String::from_utf8_lossy(bytes)) {
        let shown = parsed.to_string();
        let back = ConnectionString::parse(&shown).expect("what is stored and shown can be parsed");
        assert!(!back.has_secret(), "what is stored and shown holds no secret");
        assert!(back.without_secrets() == parsed.without_secrets(), "{shown:?} names the same server");
        let _ = (parsed.is_local(), parsed.is_verified(), parsed.server(), parsed.has_password());
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const KEYWORDS: [&str; 9] =
        ["host", "hostaddr", "port", "dbname", "user", "password", "sslmode", "application_name", "options"];
    let mut out = String::new();
    if choices.ratio(1, 4)? {
        out = format!("postgresql://{}:{}@{}:5432/{}", text(choices)?, text(choices)?, text(choices)?, text(choices)?);
    } else {
        for _ in 0..choices.int_in_range(0..=4)? {
            let quoted = text(choices)?.replace('\\', "\\\\").replace('\'', "\\'");
            out.push_str(&format!("{}='{quoted}' ", choices.choose(&KEYWORDS)?));
        }
    }
    Ok(out.into_bytes())
}
