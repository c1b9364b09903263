//! Which certificates are trusted.

use std::sync::Arc;

use once_cell::sync::OnceCell;
use reqwest::Url;
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Kind};

/// The TLS configuration for requests to a URL, with the system's root certificates.
///
/// There are many root certificates, so they are read once per process, and only when a URL is https.
/// A failure is not kept: the next request reads them again, so installing `ca-certificates` needs no
/// restart of the process.
pub(crate) fn config(url: &Url) -> Result<ClientConfig, Error> {
    static SYSTEM: OnceCell<ClientConfig> = OnceCell::new();
    if url.scheme() != "https" {
        // The client wants a configuration, and never uses it.
        return trusting(RootCertStore::empty());
    }
    SYSTEM.get_or_try_init(|| trusting(system_roots()?)).cloned()
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    // One certificate that cannot be read does not make the others useless.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::new(Kind::Certificate, "no root certificates are installed"));
    }
    Ok(roots)
}

/// The configuration of a client that trusts these root certificates only.
pub(crate) fn trusting(roots: RootCertStore) -> Result<ClientConfig, Error> {
    // Named here, because the process-wide default may belong to another library in the process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Invalid, format!("could not set up TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
