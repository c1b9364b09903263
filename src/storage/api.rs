//! The configuration of the storage service: URLs and credentials.

use std::time::Duration;

use civic_http::{Cancel, Hosts, Limits, MediaSource, Secret, StorageApi};

use super::StorageError;
use super::bucket;
use crate::error::Error;
use crate::pg::{shared, wait};
use crate::settings::media::media_concurrency;
use crate::settings::service as settings;

/// The Storage API, with the service key.
///
/// Errors: 55000 if it is not configured.
pub fn storage_api() -> Result<StorageApi, Error> {
    let (url, key) = (settings::storage_url(), settings::service_key());
    let (Some(url), Some(key)) = (&url, key.as_ref()) else {
        return Err(not_configured(&[
            ("civic.supabase_url", url.is_none()),
            ("civic.service_key", key.is_none()),
        ]));
    };
    let key = unexposed(key.clone())?;
    Ok(StorageApi::new(url, key, limits()).map_err(StorageError::Transfer)?)
}

/// The source of media, with Twilio's credentials.
///
/// Errors: 55000 if it is not configured.
pub fn media_source() -> Result<MediaSource, Error> {
    let (account, token) = (settings::twilio_account_sid(), settings::twilio_auth_token());
    let (Some(account), Some(token)) = (&account, token.as_ref()) else {
        return Err(not_configured(&[
            ("civic.twilio_account_sid", account.is_none()),
            ("civic.twilio_auth_token", token.is_none()),
        ]));
    };
    let token = unexposed(token.clone())?;
    let hosts = Hosts::parse(&settings::media_hosts()).map_err(StorageError::Transfer)?;
    let source = MediaSource::new(hosts, &bucket::MEDIA_TYPES, account, token, limits());
    Ok(source.map_err(StorageError::Transfer)?)
}

/// The Storage API's URL and the secret that signs links; `None` if the API must sign them.
///
/// Errors: 55000 if neither is configured.
pub fn signer() -> Result<Option<(String, Secret)>, Error> {
    let (url, secret) = (settings::storage_url(), settings::jwt_secret());
    let has_either = secret.is_some() || settings::service_key().is_some();
    match (url, secret) {
        (Some(url), Some(secret)) => Ok(Some((url, unexposed(secret)?))),
        (Some(_), None) if has_either => Ok(None),
        (url, _) => Err(not_configured(&[
            ("civic.supabase_url", url.is_none()),
            ("civic.jwt_secret or civic.service_key", !has_either),
        ])),
    }
}

fn not_configured(settings: &[(&'static str, bool)]) -> Error {
    let missing = settings.iter().filter(|(_, is_missing)| *is_missing);
    StorageError::NotConfigured { missing: missing.map(|(setting, _)| *setting).collect() }.into()
}

/// Whether the server cannot reveal the secrets, see [`crate::pg::secret`]: only if the library is
/// preloaded. Otherwise the settings are undefined placeholders, which every role may SHOW, and
/// which the server logs when they change.
pub fn secrets_are_safe() -> bool {
    shared::shared().is_some()
}

fn unexposed(secret: Secret) -> Result<Secret, Error> {
    if secrets_are_safe() { Ok(secret) } else { Err(StorageError::SecretsExposed.into()) }
}

pub fn limits() -> Limits {
    let total = settings::http_timeout();
    Limits {
        connect: total.min(Duration::from_secs(10)),
        read: total.min(Duration::from_secs(10)),
        total,
        max_size: settings::media_max_size(),
        lookups: 2 * media_concurrency().max(1),
    }
}

/// Runs an HTTP exchange while the backend waits and stays interruptible.
///
/// Errors: those of the exchange.
pub fn exchange<T: Send + 'static>(
    exchange: impl FnOnce(&Cancel) -> Result<T, civic_http::Error> + Send + 'static,
) -> Result<T, Error> {
    let cancel = Cancel::new();
    let theirs = cancel.clone();
    let result = wait::in_thread("pg_civic http", || cancel.cancel(), move || exchange(&theirs))?;
    Ok(result.map_err(StorageError::Transfer)?)
}
