//! The errors of a transfer.

use std::fmt;
use std::time::Duration;

/// The kind of an error, which decides what the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller's [`Cancel`](crate::Cancel) was set.
    Cancelled,
    /// The name does not resolve, or the connection is refused.
    Unreachable,
    /// A time limit was exceeded, or 408.
    TimedOut,
    /// The connection was closed before the response was complete.
    CutShort,
    /// 423, 425, 429, or not enough memory here: retry later, see [`Error::retry_after`].
    Busy,
    /// 5xx.
    ServerError,
    /// The response is not HTTP, or not what this API returns.
    Malformed,
    /// 404 of the media source. Twilio returns it for a moment after its webhook.
    MediaNotFound,
    /// 404 of the Storage API: no such bucket, or no such object.
    NotFound,
    /// 409: an object of this name exists.
    Duplicate,
    /// 401, 403 of the Storage API: the key is wrong or lacks the permission.
    Unauthorized,
    /// 401, 403, 407 of the media source: its credentials are wrong.
    MediaUnauthorized,
    /// More than [`Limits::max_size`](crate::Limits::max_size), or 413.
    TooLarge,
    /// A content type outside the list, a content encoding, or 415.
    UnsupportedType,
    /// A URL or an address that is not allowed: another host, plain http, a private network, too
    /// many redirects.
    Refused,
    /// The certificate is not valid for this host, or no root certificates are installed.
    Certificate,
    /// Any other 4xx.
    Rejected,
    /// The caller's mistake: a base URL, a path or a header that cannot be sent. Nothing was sent.
    Invalid,
}

impl Kind {
    /// Whether the same request may succeed later.
    pub fn is_transient(self) -> bool {
        match self {
            Kind::Unreachable
            | Kind::TimedOut
            | Kind::CutShort
            | Kind::Busy
            | Kind::ServerError
            | Kind::Malformed
            | Kind::MediaNotFound => true,
            Kind::Cancelled
            | Kind::NotFound
            | Kind::Duplicate
            | Kind::Unauthorized
            | Kind::MediaUnauthorized
            | Kind::TooLarge
            | Kind::UnsupportedType
            | Kind::Refused
            | Kind::Certificate
            | Kind::Rejected
            | Kind::Invalid => false,
        }
    }
}

/// An error of a transfer. Its message names hosts, but no path, query or secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    retry_after: Option<Duration>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), retry_after: None }
    }

    pub(crate) fn with_retry_after(mut self, retry_after: Option<Duration>) -> Error {
        self.retry_after = retry_after;
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// One line for an SQL error, a job's row or a log.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    /// The server's Retry-After, at most a day.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The longest foreign text in a message, in characters.
const SHOWN: usize = 200;

/// A foreign text for a message: one line, cut, with control characters escaped.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for character in text.trim().chars().take(SHOWN) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.trim().chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_is_cut_and_escaped() {
        assert_eq!(shown(" a\nb\u{1b} "), r"a\nb\u{1b}");
        assert_eq!(shown(&"x".repeat(SHOWN)), "x".repeat(SHOWN));
        assert_eq!(shown(&"x".repeat(SHOWN + 1)), "x".repeat(SHOWN) + "…");
    }
}
