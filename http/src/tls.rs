//! Which certificates are believed.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Kind};

/// Believes the system's roots, read once a process.
pub(crate) fn config() -> Result<ClientConfig, Error> {
    static CONFIG: OnceLock<Result<ClientConfig, String>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // A root that cannot be read costs only what it vouches for.
        roots.add_parsable_certificates(found.certs);
        trusting(roots)
    });
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
