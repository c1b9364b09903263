//! Which servers are believed to be who they say.

use std::time::Duration;

use civic_fake_services::certificate::Authority;
use civic_fake_services::{Answer, FakeServer, sequence};

use super::*;
use crate::Kind;

fn server(config: Arc<rustls::ServerConfig>) -> FakeServer {
    FakeServer::tls(config, sequence([Answer::file("image/jpeg", "bytes")]))
}

fn fetch_trusting(server: &FakeServer, authority: &Authority) -> Result<Media, Error> {
    let source = source(&server.host(), LIMITS).trusting(trust(authority));
    source.fetch(&server.url("/x"), &Cancel::new())
}

#[track_caller]
fn assert_not_believed(result: Result<Media, Error>, server: &FakeServer) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Certificate, "{error}");
    assert!(!error.may_heal());
    assert_eq!(server.count(), 0, "not even the path of the URL was sent");
}

#[test]
fn a_good_certificate_is_believed() {
    let authority = Authority::new();
    let server = server(authority.server("127.0.0.1"));
    assert_eq!(fetch_trusting(&server, &authority).unwrap().body, b"bytes");
}

#[test]
fn a_certificate_of_somebody_unknown_is_not_believed() {
    let server = server(Authority::new().server("127.0.0.1"));
    assert_not_believed(fetch_trusting(&server, &Authority::new()), &server);
    // Nor by the system's roots.
    assert_not_believed(fetch(&server, LIMITS), &server);
}

#[test]
fn a_certificate_of_another_name_is_not_believed() {
    let authority = Authority::new();
    let server = server(authority.server("api.twilio.com"));
    assert_not_believed(fetch_trusting(&server, &authority), &server);
}

#[test]
fn an_expired_certificate_is_not_believed() {
    let authority = Authority::new();
    let server = server(authority.expired_server("127.0.0.1"));
    assert_not_believed(fetch_trusting(&server, &authority), &server);
}

#[test]
fn an_authority_of_ones_own_is_named_in_the_environment() {
    let authority = Authority::new();
    let server = server(authority.server("127.0.0.1"));
    let file = std::env::temp_dir().join(format!("civic_http_{}.pem", std::process::id()));
    std::fs::write(&file, authority.root_pem()).unwrap();
    let environment = [("SSL_CERT_FILE", file.to_str().unwrap())];
    let believed = fetches_elsewhere(&server, &environment);
    let printed = fetches_elsewhere(&server, &[]).unwrap_err();
    std::fs::remove_file(file).unwrap();
    assert_eq!(believed, Ok(()));
    assert!(printed.contains("the certificate of 127.0.0.1"), "{printed}");
}

#[test]
fn the_storage_api_is_held_to_the_same() {
    let authority = Authority::new();
    let answer = serde_json::json!({"Key": "evidence/t/f/a.jpg", "Id": "1"});
    let server =
        FakeServer::tls(authority.server("127.0.0.1"), sequence([Answer::json(200, &answer)]));
    let api = api_of(&server, LIMITS);
    let error = upload(&api, PATH, "x").unwrap_err();
    assert_eq!((error.kind(), server.count()), (Kind::Certificate, 0));
    assert_tells_no_secret(&error);
    assert_eq!(upload(&api.trusting(trust(&authority)), PATH, "x"), Ok(Some("1".to_owned())));
}

#[test]
fn a_server_that_speaks_no_tls_is_told() {
    let server = FakeServer::start(sequence([Answer::new(200)]));
    let url = format!("https://{}/x", server.host());
    let error = source(&server.host(), LIMITS).fetch(&url, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
}

#[test]
fn a_handshake_that_never_ends_is_given_up() {
    // It reads the client's first words as a request that has no end.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let source = source(&host, quick(LIMITS));
    let fetch = || source.fetch(&format!("https://{host}/x"), &Cancel::new());
    let error = within(Duration::from_secs(5), fetch).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
}
