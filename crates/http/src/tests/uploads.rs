//! Uploads in bad weather.

use std::time::Duration;

use civic_fake_services::{Answer, FakeServer, sequence};

use super::*;
use crate::Kind;

const LARGE: Limits = Limits { max_size: 100 * 1024 * 1024, ..LIMITS };

#[test]
fn fifty_megabytes_arrive() {
    let storage = storage();
    let api = StorageApi::new(&storage.url(), Secret::new(storage.service_key()), LARGE).unwrap();
    let body: Vec<u8> = (0..50 * 1024 * 1024).map(|index| (index % 251) as u8).collect();
    upload(&api, PATH, body.clone()).unwrap();
    assert!(storage.object("evidence", PATH).unwrap().body == body);
    let error = upload(&api, "t/f/more.jpg", [body, vec![0]].concat()).unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
}

#[test]
fn what_is_over_our_own_limit_is_not_sent() {
    let storage = storage();
    let body = vec![0; LIMITS.max_size as usize + 1];
    assert_eq!(upload(&api(&storage), PATH, body).unwrap_err().kind(), Kind::TooLarge);
    assert_eq!(storage.server().connections(), 0);
}

#[test]
fn a_server_that_reads_nothing_is_given_up() {
    let server = FakeServer::impatient(sequence([Answer::black_hole()]));
    let api = api_of(&server, quick(LARGE));
    let error = within(Duration::from_secs(5), || upload(&api, PATH, vec![0; 50 * 1024 * 1024]));
    assert_eq!(error.unwrap_err().kind(), Kind::TimedOut);
}

#[test]
fn a_refusal_before_the_body_was_read_is_heard() {
    let server = FakeServer::impatient(sequence([Answer::new(401)]));
    let error = upload(&api_of(&server, LIMITS), PATH, "bytes").unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
}

#[test]
fn nobody_at_the_port_is_told_at_once() {
    let server = FakeServer::start(sequence([Answer::new(200)]));
    let api = api_of(&server, LIMITS);
    drop(server);
    let error = within(Duration::from_secs(5), || upload(&api, PATH, "x")).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.message().ends_with("Connection refused"), "{error}");
}

#[test]
fn a_name_that_does_not_exist_is_unreachable() {
    let api =
        StorageApi::new("http://nothing.invalid/storage/v1", Secret::new(KEY), LIMITS).unwrap();
    let error = within(Duration::from_secs(20), || upload(&api, PATH, "x")).unwrap_err();
    assert!(error.may_heal(), "{error}");
    assert!(error.message().contains("nothing.invalid"), "{error}");
}

#[test]
fn a_slow_network_is_not_a_dead_one() {
    // Longer than nothing may come, but something always does.
    let answer = r#"{"Key": "evidence/t/f/a.jpg", "Id": "1"}"#;
    let server = FakeServer::start(sequence([
        Answer::file("application/json", answer).dripping(4, Duration::from_millis(100))
    ]));
    upload(&api_of(&server, quick(LIMITS)), PATH, "x").unwrap();
}
