//! Which certificates are believed.

use std::sync::{Arc, OnceLock};

use reqwest::Url;
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Kind};

/// What a request for a URL needs: the system's roots, read once a process and not before https is
/// spoken, as there are many. A client for plain http is made with none.
pub(crate) fn config(url: &Url) -> Result<ClientConfig, Error> {
    static SYSTEM: OnceLock<Result<ClientConfig, String>> = OnceLock::new();
    static NOBODY: OnceLock<Result<ClientConfig, String>> = OnceLock::new();
    let config = match url.scheme() {
        "https" => SYSTEM.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // A root that cannot be read costs only what it vouches for.
            roots.add_parsable_certificates(found.certs);
            trusting(roots)
        }),
        _ => NOBODY.get_or_init(|| trusting(RootCertStore::empty())),
    };
    config.clone().map_err(|why| Error::new(Kind::Invalid, format!("TLS cannot be set up: {why}")))
}

pub(crate) fn trusting(roots: RootCertStore) -> Result<ClientConfig, String> {
    // Named here, as the process-wide default belongs to whoever shares the process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
