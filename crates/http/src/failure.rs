//! What a failure of the client means, found in the errors behind it.

use std::error::Error as StdError;
use std::io;

use crate::error::{Error, Kind, shown};
use crate::transfer::NotAllowed;

/// The error behind a failed request to a host. reqwest's own words are not repeated: they hold the
/// whole URL.
pub(crate) fn of(error: &reqwest::Error, host: &str) -> Error {
    let causes = causes(error);
    let find = |kind: Kind, message: String| Error::new(kind, message);

    if let Some(refused) = cause::<NotAllowed>(&causes) {
        return find(Kind::Refused, format!("{host} is not asked: {refused}"));
    }
    if let Some(tls) = cause::<rustls::Error>(&causes) {
        return match tls {
            rustls::Error::InvalidCertificate(why) => find(
                Kind::Certificate,
                format!("the certificate of {host} is not valid: {}", shown(&why.to_string())),
            ),
            other => find(
                Kind::Unreachable,
                format!("no TLS connection to {host}: {}", shown(&other.to_string())),
            ),
        };
    }
    if error.is_timeout() {
        return find(Kind::TimedOut, format!("no connection to {host} in time"));
    }
    if error.is_connect() {
        let why = cause::<io::Error>(&causes).map_or("it failed".to_owned(), io_words);
        return find(Kind::Unreachable, format!("no connection to {host}: {why}"));
    }
    if let Some(hyper) = cause::<hyper::Error>(&causes)
        && hyper.is_parse()
    {
        // Its words are of the kind only ("message head is too large"), never of what was sent.
        return find(Kind::Malformed, format!("{host} does not answer in proper HTTP: {hyper}"));
    }
    find(Kind::CutShort, format!("{host} ended the connection before the answer was whole"))
}

/// What the system says, without its number.
fn io_words(error: &io::Error) -> String {
    let words = error.to_string();
    shown(words.split(" (os error").next().unwrap_or_default())
}

/// An error and everything behind it.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut causes = vec![error];
    let mut next = Some(error);
    while let Some(error) = next.take() {
        // An io::Error passes over what it wraps when it is asked for its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => error.source(),
        };
        causes.extend(next);
    }
    causes
}

/// The innermost cause of a type.
fn cause<'a, T: StdError + 'static>(causes: &[&'a (dyn StdError + 'static)]) -> Option<&'a T> {
    causes.iter().rev().find_map(|cause| cause.downcast_ref())
}
