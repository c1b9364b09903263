//! A text that no log and no error may show.

use std::fmt;

/// A key or a password. `Debug` and `Display` show that there is one, and not what it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    /// The text itself, for the one place that sends it or signs with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A text of somebody else's with every occurrence of the secret taken out.
    pub(crate) fn scrub(&self, text: &str) -> String {
        match self.0.trim() {
            "" => text.to_owned(),
            secret => text.replace(secret, "[secret]"),
        }
    }
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
    fn a_secret_in_somebody_elses_text_is_taken_out() {
        assert_eq!(Secret::new("hunter2").scrub("bad key hunter2!"), "bad key [secret]!");
        assert_eq!(Secret::new("").scrub("unchanged"), "unchanged");
    }
}
