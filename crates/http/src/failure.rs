//! From an error of the HTTP client, and the causes behind it, to the crate's own error.

use std::error::Error as StdError;
use std::io;

use crate::error::{Error, Kind, shown};
use crate::resolver::NotAllowed;

/// The error of a failed request to a host. The message of [`reqwest::Error`] is not used, because it
/// contains the whole URL.
pub(crate) fn of(error: &reqwest::Error, host: &str) -> Error {
    let causes = causes(error);
    if let Some(refused) = cause::<NotAllowed>(&causes) {
        return Error::new(Kind::Refused, format!("{host} {refused}"));
    }
    if let Some(tls) = cause::<rustls::Error>(&causes) {
        return match tls {
            rustls::Error::InvalidCertificate(why) => Error::new(
                Kind::Certificate,
                format!("the certificate of {host} is not valid: {}", shown(&why.to_string())),
            ),
            other => Error::new(
                Kind::Unreachable,
                format!("TLS handshake with {host} failed: {}", shown(&other.to_string())),
            ),
        };
    }
    if error.is_timeout() {
        return Error::new(Kind::TimedOut, format!("could not connect to {host} in time"));
    }
    if error.is_connect() {
        let why = cause::<io::Error>(&causes).map_or("connection failed".to_owned(), io_message);
        return Error::new(Kind::Unreachable, format!("could not connect to {host}: {why}"));
    }
    if let Some(hyper) = cause::<hyper::Error>(&causes)
        && hyper.is_parse()
    {
        // Its message names the kind ("message head is too large") and repeats nothing of the response.
        return Error::new(
            Kind::Malformed,
            format!("response of {host} is not valid HTTP: {hyper}"),
        );
    }
    Error::new(
        Kind::CutShort,
        format!("{host} closed the connection before the response was complete"),
    )
}

/// The system's message, without the error number.
fn io_message(error: &io::Error) -> String {
    let message = error.to_string();
    shown(message.split(" (os error").next().unwrap_or_default())
}

/// An error and all its causes, the outermost first.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut causes = vec![error];
    let mut next = Some(error);
    while let Some(error) = next.take() {
        // The source of an io::Error is not the error that it wraps, but that error's source.
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
