//! pg_civic's HTTP: the Storage API, and the hosts that WhatsApp media comes from.
//!
//! Nothing here knows PostgreSQL. Each call blocks the calling thread and runs on its own
//! single-threaded runtime, which ends with the call. Only name resolution uses a second thread,
//! because getaddrinfo blocks. That thread inherits the caller's signal mask: **block every signal in
//! the calling thread before the first call**, or the server's signal handlers may run in it.
//! docs/architecture.md, decision 8, explains why this is not reqwest's blocking client.
//!
//! Every call ends: after [`Limits::total`] at the latest, and about 20 ms after its [`Cancel`] was
//! set. Each transfer makes its own connection, so none goes stale between two jobs. The proxy
//! settings of the environment are ignored.
//!
//! Certificates are checked against the system's root certificates, which a process reads once.
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` replace them, as for OpenSSL.

mod address;
mod error;
mod failure;
mod hosts;
mod limits;
mod media;
mod path;
mod resolver;
mod secret;
mod storage;
mod tls;
mod transfer;

#[cfg(test)]
mod tests;

pub use error::{Error, Kind};
pub use hosts::Hosts;
pub use limits::{Cancel, Limits};
pub use media::{Media, MediaSource, essence};
pub use path::encode as encode_path;
pub use secret::Secret;
pub use storage::{Entry, LIST_PAGE, Place, Stat, StorageApi, Uploaded};
