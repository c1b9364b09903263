//! Secrets: no log or error shows them, and their memory is overwritten when they are dropped.

use std::fmt;

use hyper::body::Bytes;
use reqwest::header::{HeaderValue, InvalidHeaderValue};
use zeroize::Zeroizing;

/// A key or a password. `Debug` and `Display` print a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl From<Zeroizing<String>> for Secret {
    fn from(secret: Zeroizing<String>) -> Secret {
        Secret(secret)
    }
}

impl Secret {
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(secret.into()))
    }

    /// The text itself, for the code that sends it or signs with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has the form of a signed JWT: three parts in base64url (RFC 7515, section 7.1).
    pub fn is_jwt(&self) -> bool {
        let is_base64url = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let parts = self.0.trim().split('.');
        parts.clone().count() == 3 && parts.clone().all(is_base64url)
    }

    /// A foreign text with every occurrence of the secret replaced.
    pub(crate) fn scrub(&self, text: &str) -> String {
        match self.0.trim() {
            "" => text.to_owned(),
            secret => text.replace(secret, "[secret]"),
        }
    }
}

/// A header's value, joined from parts of which one is a secret. Its memory is overwritten when it is
/// dropped. The copies that the HTTP client makes are not: the calling thread's allocator must
/// overwrite them.
pub(crate) fn header(parts: &[&str]) -> Result<HeaderValue, InvalidHeaderValue> {
    let length = parts.iter().map(|part| part.len()).sum();
    // Allocated at its full size: growing would leave copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(length));
    parts.iter().for_each(|part| value.extend_from_slice(part.as_bytes()));
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(value))?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "[secret] [secret]");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_jwt_has_three_parts() {
        for jwt in ["eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYSJ9.c2ln_-", " a.b.c\n"] {
            assert!(Secret::new(jwt).is_jwt(), "{jwt:?}");
        }
        for other in ["", "sb_secret_abc", "a.b", "a.b.c.d", "a..c", "a.b.", "a.b.c=", "a.b.c d"] {
            assert!(!Secret::new(other).is_jwt(), "{other:?}");
        }
    }

    #[test]
    fn a_header_of_a_secret_is_sensitive_and_takes_no_control_characters() {
        let value = header(&["Bearer ", "hunter2"]).unwrap();
        assert_eq!(value.as_bytes(), b"Bearer hunter2");
        assert!(value.is_sensitive());
        assert!(header(&["Bearer ", "hunter\n2"]).is_err());
    }

    #[test]
    fn a_secret_in_a_foreign_text_is_replaced() {
        assert_eq!(Secret::new("hunter2").scrub("bad key hunter2!"), "bad key [secret]!");
        assert_eq!(Secret::new("").scrub("unchanged"), "unchanged");
    }
}
