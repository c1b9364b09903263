//! What pg_civic says over HTTP: to the Storage API, and to where WhatsApp media comes from.
//!
//! Nothing here knows PostgreSQL. A transfer runs in the thread that calls, on a runtime of its own
//! that is gone when the call returns; only the resolver of host names may take a second thread, as
//! getaddrinfo blocks. That thread inherits the signal mask of the caller: **block every signal in
//! the calling thread before the first call**, or the server's handlers may run in the resolver's.
//!
//! Every call ends: after [`Limits::total`] at the latest, and about 20 ms after its [`Cancel`] was
//! set. A connection serves one transfer, so none can go stale between two jobs, and no proxy is
//! taken from the environment.
//!
//! Certificates are checked against the system's roots, read once a process (`SSL_CERT_FILE` and
//! `SSL_CERT_DIR` name others, as they do for OpenSSL).

mod address;
mod error;
mod failure;
mod hosts;
mod limits;
mod media;
mod path;
mod secret;
mod storage;
mod tls;
mod transfer;

#[cfg(test)]
mod tests;

pub use error::{Error, Kind};
pub use hosts::Hosts;
pub use limits::{Cancel, Limits};
pub use media::{Media, MediaSource};
pub use path::encode as encode_path;
pub use secret::Secret;
pub use storage::{Entry, LIST_PAGE, Place, Stat, StorageApi, Uploaded};
