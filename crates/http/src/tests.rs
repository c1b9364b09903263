//! Tests against real servers on loopback, see `civic_fake_services`.
//!
//! [`LIMITS`] are far beyond what any of these transfers takes, also on a busy machine. Only tests of a
//! time limit use shorter ones.

mod cancellation;
mod certificates;
mod credentials;
mod media;
mod moving;
mod redirects;
mod storage;
mod uploads;

use std::sync::Arc;
use std::time::{Duration, Instant};

use civic_fake_services::{FakeServer, Options, Storage};

use crate::{Cancel, Error, Hosts, Limits, Media, MediaSource, Secret, StorageApi, transfer};

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(120),
    read: Duration::from_secs(120),
    total: Duration::from_secs(120),
    max_size: 1024 * 1024,
    lookups: 64,
};
const TYPES: [&str; 3] = ["image/jpeg", "image/png", "application/pdf"];
const SID: &str = "AC0123456789";
const TOKEN: &str = "twilio-token-hunter2";
const KEY: &str = "service-key-hunter2";
const PATH: &str = "t/f/a.jpg";

/// Limits for a transfer that is to exceed them.
fn short(limits: Limits) -> Limits {
    Limits { connect: Duration::from_millis(300), read: Duration::from_millis(300), ..limits }
}

fn storage() -> Storage {
    Storage::start(Options::default())
}

fn api(storage: &Storage) -> StorageApi {
    StorageApi::new(&storage.url(), Secret::new(storage.service_key()), LIMITS).unwrap()
}

/// A client of a Storage API whose responses the test defines.
fn api_of(server: &FakeServer, limits: Limits) -> StorageApi {
    StorageApi::new(&server.url("/storage/v1"), Secret::new(KEY), limits).unwrap()
}

fn upload(api: &StorageApi, path: &str, body: impl Into<Vec<u8>>) -> Result<Option<String>, Error> {
    let uploaded = api.upload("evidence", path, "image/jpeg", body.into(), &Cancel::new());
    uploaded.map(|uploaded| uploaded.id)
}

fn source(hosts: &str, limits: Limits) -> MediaSource {
    let hosts = Hosts::parse(hosts).unwrap();
    MediaSource::new(hosts, &TYPES, SID, Secret::new(TOKEN), limits).unwrap()
}

/// Fetches a file from a server whose responses the test defines.
fn fetch(server: &FakeServer, limits: Limits) -> Result<Media, Error> {
    source(&server.host(), limits)
        .fetch(&server.url("/media?Signature=signed-hunter2"), &Cancel::new())
}

/// Runs an action that must end long before the limits of [`LIMITS`].
#[track_caller]
fn promptly<T>(action: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = action();
    assert!(start.elapsed() < Duration::from_secs(60), "it took {:?}", start.elapsed());
    result
}

/// The configuration of a client that trusts only this authority.
fn trust(authority: &civic_fake_services::certificate::Authority) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    crate::tls::trusting(roots).unwrap()
}

#[track_caller]
fn assert_shows_no_secret(error: &Error) {
    let shown = format!("{error} {error:?}");
    for secret in ["hunter2", "Signature", SID] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// Fetches from a server in a new process with these environment variables and none of OpenSSL's others. The error is what the
/// process prints.
fn fetch_in_a_process(server: &FakeServer, environment: &[(&str, &str)]) -> Result<(), String> {
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "tests::fetch_in_an_environment"])
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR")
        .env("CIVIC_HTTP_TEST_URL", server.url("/x"))
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&[test.stdout, test.stderr].concat()).into_owned();
    assert!(printed.contains("running 1 test"), "{printed}");
    if test.status.success() { Ok(()) } else { Err(printed) }
}

#[test]
#[ignore = "run in a new process by tests that set environment variables"]
fn fetch_in_an_environment() {
    let url = std::env::var("CIVIC_HTTP_TEST_URL").unwrap();
    let host = transfer::host(&reqwest::Url::parse(&url).unwrap());
    let fetch = || source(&host, LIMITS).fetch(&url, &Cancel::new());
    if let Some(roots) = std::env::var_os("CIVIC_HTTP_TEST_ROOTS_LATER") {
        let error = fetch().unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Certificate);
        assert!(error.message().contains("no root certificates"), "{error}");
        std::fs::rename(roots, std::env::var_os("SSL_CERT_FILE").unwrap()).unwrap();
    }
    fetch().unwrap();
}
