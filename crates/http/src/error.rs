//! What can go wrong in a transfer.

use std::fmt;
use std::time::Duration;

/// What went wrong, as far as the caller decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller's [`Cancel`](crate::Cancel) was set.
    Cancelled,
    /// The name does not resolve, or nobody takes the connection.
    Unreachable,
    /// Nothing came in time, or not all of it.
    TimedOut,
    /// The connection ended before the answer did.
    CutShort,
    /// 423, 429: later. [`Error::retry_after`] says when, where the server did.
    Busy,
    /// 5xx.
    ServerError,
    /// The answer is not HTTP, or not what this API gives.
    Malformed,
    /// 404 of the media source: Twilio gives it for a moment after its webhook.
    MediaNotFound,
    /// 404 of the Storage API: no such bucket, or no such object.
    NotFound,
    /// 409: there is an object of this name.
    Duplicate,
    /// 401, 403: the key or the token is wrong, or may not.
    Unauthorized,
    /// More than [`Limits::max_size`](crate::Limits::max_size), or 413.
    TooLarge,
    /// A content type outside the list, an encoding nobody asked for, or 415.
    UnsupportedType,
    /// A URL or an address that is not allowed: another host, plain http, a private network, too
    /// many redirects.
    Refused,
    /// The certificate is not valid for this host.
    Certificate,
    /// Any other 4xx.
    Rejected,
    /// The caller's own mistake: a base URL, a path or a header that cannot be sent. Nothing was.
    Invalid,
}

impl Kind {
    /// Whether the same request may succeed later.
    pub fn may_heal(self) -> bool {
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
            | Kind::TooLarge
            | Kind::UnsupportedType
            | Kind::Refused
            | Kind::Certificate
            | Kind::Rejected
            | Kind::Invalid => false,
        }
    }
}

/// An error of a transfer. Its message names hosts and no paths, and never a secret or a query.
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

    /// One line, fit for an SQL error, a job's row or a log: see [`Error`].
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same request may succeed later.
    pub fn may_heal(&self) -> bool {
        self.kind.may_heal()
    }

    /// How long the server asks to be left alone, with 429 and 503; a day at most.
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

/// Longest piece of somebody else's words in a message, in characters.
const SHOWN: usize = 200;

/// Somebody else's words in one line: cut, control characters escaped.
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
