//! Against real servers on loopback: see `civic_fake_services`.

mod calling_off;
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
    connect: Duration::from_secs(10),
    read: Duration::from_secs(10),
    total: Duration::from_secs(20),
    max_size: 1024 * 1024,
};
const TYPES: [&str; 3] = ["image/jpeg", "image/png", "application/pdf"];
const SID: &str = "AC0123456789";
const TOKEN: &str = "twilio-token-hunter2";
const KEY: &str = "service-key-hunter2";
const PATH: &str = "t/f/a.jpg";

fn quick(limits: Limits) -> Limits {
    Limits { connect: Duration::from_millis(300), read: Duration::from_millis(300), ..limits }
}

fn storage() -> Storage {
    Storage::start(Options::default())
}

fn api(storage: &Storage) -> StorageApi {
    StorageApi::new(&storage.url(), Secret::new(storage.service_key()), LIMITS).unwrap()
}

/// A Storage API that answers as a test tells it to.
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

/// Fetches a file from a server that answers as a test tells it to.
fn fetch(server: &FakeServer, limits: Limits) -> Result<Media, Error> {
    source(&server.host(), limits)
        .fetch(&server.url("/media?Signature=signed-hunter2"), &Cancel::new())
}

/// Runs what must end within a time, on a machine that others use too.
#[track_caller]
fn within<T>(limit: Duration, action: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = action();
    assert!(start.elapsed() < limit, "it took {:?}", start.elapsed());
    result
}

/// A client's roots with one authority's alone.
fn trust(authority: &civic_fake_services::certificate::Authority) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    crate::tls::trusting(roots).unwrap()
}

/// No message may hold one of these.
#[track_caller]
fn assert_tells_no_secret(error: &Error) {
    let told = format!("{error} {error:?}");
    for secret in ["hunter2", "Signature", SID] {
        assert!(!told.contains(secret), "{told}");
    }
}

/// Fetches from a server in a process of its own: the environment is everybody's. The error is all
/// that the process prints.
fn fetches_elsewhere(server: &FakeServer, environment: &[(&str, &str)]) -> Result<(), String> {
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "tests::fetch_in_an_environment"])
        .env("CIVIC_HTTP_TEST_URL", server.url("/x"))
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&[test.stdout, test.stderr].concat()).into_owned();
    assert!(printed.contains("running 1 test"), "{printed}");
    if test.status.success() { Ok(()) } else { Err(printed) }
}

#[test]
#[ignore = "run by the tests that need an environment of their own"]
fn fetch_in_an_environment() {
    let url = std::env::var("CIVIC_HTTP_TEST_URL").unwrap();
    let host = transfer::host(&reqwest::Url::parse(&url).unwrap());
    source(&host, LIMITS).fetch(&url, &Cancel::new()).unwrap();
}
