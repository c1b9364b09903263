//! Uploads, with and without faults.

use std::time::Duration;

use civic_fake_services::{Answer, FakeServer, sequence};

use super::*;
use crate::Kind;

const LARGE: Limits = Limits { max_size: 100 * 1024 * 1024, ..LIMITS };

#[test]
fn fifty_megabytes_are_uploaded() {
    let storage = storage();
    let api = StorageApi::new(&storage.url(), Secret::new(storage.service_key()), LARGE).unwrap();
    let body: Vec<u8> = (0..50 * 1024 * 1024).map(|index| (index % 251) as u8).collect();
    upload(&api, PATH, body.clone()).unwrap();
    assert!(storage.object("evidence", PATH).unwrap().body == body);
    let error = upload(&api, "t/f/more.jpg", [body, vec![0]].concat()).unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
}

#[test]
fn a_file_over_the_limit_is_not_sent() {
    let storage = storage();
    let body = vec![0; LIMITS.max_size as usize + 1];
    assert_eq!(upload(&api(&storage), PATH, body).unwrap_err().kind(), Kind::TooLarge);
    assert_eq!(storage.server().connections(), 0);
}

#[test]
fn a_server_that_reads_nothing_times_out() {
    let server = FakeServer::impatient(sequence([Answer::black_hole()]));
    let api = api_of(&server, short(LARGE));
    let error = promptly(|| upload(&api, PATH, vec![0; 50 * 1024 * 1024]));
    assert_eq!(error.unwrap_err().kind(), Kind::TimedOut);
}

#[test]
fn a_response_before_the_body_was_read_is_received() {
    let server = FakeServer::impatient(sequence([Answer::new(401)]));
    let error = upload(&api_of(&server, LIMITS), PATH, "bytes").unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
}

#[test]
fn a_refused_connection_is_reported_at_once() {
    let server = FakeServer::start(sequence([Answer::new(200)]));
    let api = api_of(&server, LIMITS);
    drop(server);
    let error = promptly(|| upload(&api, PATH, "x")).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.message().ends_with("Connection refused"), "{error}");
}

#[test]
fn a_name_that_does_not_exist_is_unreachable() {
    // A resolver without a network may take long.
    let limits = Limits { connect: Duration::from_secs(10), ..LIMITS };
    let url = "http://nothing.invalid/storage/v1";
    let api = StorageApi::new(url, Secret::new(KEY), limits).unwrap();
    let error = promptly(|| upload(&api, PATH, "x")).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.message().contains("nothing.invalid"), "{error}");
}

#[test]
fn a_slow_response_is_received() {
    // In all it takes longer than `read`, but something arrives well within it.
    let limits = Limits { read: Duration::from_secs(1), ..LIMITS };
    let answer = r#"{"Key": "evidence/t/f/a.jpg", "Id": "1"}"#;
    let server = FakeServer::start(sequence([
        Answer::file("application/json", answer).dripping(1, Duration::from_millis(40))
    ]));
    upload(&api_of(&server, limits), PATH, "x").unwrap();
}
