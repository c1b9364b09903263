//! The two services between which media travels, as the settings name them.

use std::time::Duration;

use civic_http::{Hosts, Limits, MediaSource, Secret, StorageApi};

use crate::error::Error;
use crate::settings::service as settings;
use crate::storage::bucket;

/// How long it may take to reach a host. Whatever takes longer than that is not there.
const CONNECT: Duration = Duration::from_secs(10);

/// What the settings say, to be compared with what they said before.
#[derive(Clone, PartialEq, Eq)]
pub struct Configuration {
    storage_url: String,
    service_key: Secret,
    account_sid: String,
    auth_token: Secret,
    hosts: String,
    max_size: u64,
    timeout: Duration,
}

impl Configuration {
    /// Errors: a setting that is needed is not set.
    pub fn read() -> Result<Configuration, Error> {
        let mut missing = vec![];
        let mut needed = |name, value: Option<String>| {
            value.unwrap_or_else(|| {
                missing.push(name);
                String::new()
            })
        };
        let configuration = Configuration {
            storage_url: needed("civic.supabase_url", settings::storage_url()),
            service_key: Secret::new(needed("civic.service_key", settings::service_key())),
            account_sid: needed("civic.twilio_account_sid", settings::twilio_account_sid()),
            auth_token: Secret::new(needed(
                "civic.twilio_auth_token",
                settings::twilio_auth_token(),
            )),
            hosts: settings::media_hosts().join(","),
            max_size: settings::media_max_size(),
            timeout: settings::http_timeout(),
        };
        if missing.is_empty() { Ok(configuration) } else { Err(Error::NotConfigured { missing }) }
    }
}

/// Both services, ready to be asked. Its calls are made in threads of their own.
pub struct Service {
    pub storage: StorageApi,
    pub source: MediaSource,
}

impl Service {
    /// Errors: a setting's value that cannot be used, such as what is no URL.
    pub fn new(configuration: Configuration) -> Result<Service, civic_http::Error> {
        let Configuration {
            storage_url,
            service_key,
            account_sid,
            auth_token,
            hosts,
            max_size,
            timeout,
        } = configuration;
        let limits =
            Limits { connect: timeout.min(CONNECT), read: timeout, total: timeout, max_size };
        Ok(Service {
            storage: StorageApi::new(&storage_url, service_key, limits)?,
            source: MediaSource::new(
                Hosts::parse(&hosts)?,
                &bucket::MEDIA_TYPES,
                &account_sid,
                auth_token,
                limits,
            )?,
        })
    }
}
