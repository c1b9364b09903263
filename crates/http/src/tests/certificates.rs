//! Which certificates are trusted.

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
fn assert_not_trusted(result: Result<Media, Error>, server: &FakeServer) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Certificate, "{error}");
    assert!(!error.is_transient());
    assert_eq!(server.count(), 0, "the path of the URL was not sent");
}

#[test]
fn a_valid_certificate_is_trusted() {
    let authority = Authority::new();
    let server = server(authority.server("127.0.0.1"));
    assert_eq!(fetch_trusting(&server, &authority).unwrap().body, b"bytes");
}

#[test]
fn a_certificate_of_an_unknown_authority_is_not_trusted() {
    let server = server(Authority::new().server("127.0.0.1"));
    assert_not_trusted(fetch_trusting(&server, &Authority::new()), &server);
    // The system's root certificates do not include it either.
    assert_not_trusted(fetch(&server, LIMITS), &server);
}

#[test]
fn a_certificate_for_another_name_is_not_trusted() {
    let authority = Authority::new();
    let server = server(authority.server("api.twilio.com"));
    assert_not_trusted(fetch_trusting(&server, &authority), &server);
}

#[test]
fn an_expired_certificate_is_not_trusted() {
    let authority = Authority::new();
    let server = server(authority.expired_server("127.0.0.1"));
    assert_not_trusted(fetch_trusting(&server, &authority), &server);
}

#[test]
fn the_environment_names_another_authority() {
    let authority = Authority::new();
    let server = server(authority.server("127.0.0.1"));
    let file = std::env::temp_dir().join(format!("civic_http_{}.pem", std::process::id()));
    std::fs::write(&file, authority.root_pem()).unwrap();
    let environment = [("SSL_CERT_FILE", file.to_str().unwrap())];
    let trusted = fetch_in_a_process(&server, &environment);
    let printed = fetch_in_a_process(&server, &[]).unwrap_err();
    std::fs::remove_file(file).unwrap();
    assert_eq!(trusted, Ok(()));
    assert!(printed.contains("the certificate of 127.0.0.1"), "{printed}");
}

#[test]
fn root_certificates_that_are_installed_later_are_found() {
    let authority = Authority::new();
    let server = server(authority.server("127.0.0.1"));
    let file = |name| {
        let name = format!("civic_http_{}_{name}.pem", std::process::id());
        std::env::temp_dir().join(name)
    };
    let (roots, later) = (file("roots"), file("later"));
    std::fs::write(&later, authority.root_pem()).unwrap();
    let environment = [
        ("SSL_CERT_FILE", roots.to_str().unwrap()),
        ("CIVIC_HTTP_TEST_ROOTS_LATER", later.to_str().unwrap()),
    ];
    let fetched = fetch_in_a_process(&server, &environment);
    assert_eq!(fetched, Ok(()));
    std::fs::remove_file(roots).unwrap();
}

#[test]
fn the_certificate_of_the_storage_api_is_checked_too() {
    let authority = Authority::new();
    let answer = serde_json::json!({"Key": "evidence/t/f/a.jpg", "Id": "1"});
    let server =
        FakeServer::tls(authority.server("127.0.0.1"), sequence([Answer::json(200, &answer)]));
    let api = api_of(&server, LIMITS);
    let error = upload(&api, PATH, "x").unwrap_err();
    assert_eq!((error.kind(), server.count()), (Kind::Certificate, 0));
    assert_shows_no_secret(&error);
    assert_eq!(upload(&api.trusting(trust(&authority)), PATH, "x"), Ok(Some("1".to_owned())));
}

#[test]
fn a_server_without_tls_is_unreachable() {
    let server = FakeServer::start(sequence([Answer::new(200)]));
    let url = format!("https://{}/x", server.host());
    let error = source(&server.host(), LIMITS).fetch(&url, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
}

#[test]
fn a_handshake_that_never_ends_times_out() {
    // It accepts the connection and sends nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let source = source(&host, short(LIMITS));
    let fetch = || source.fetch(&format!("https://{host}/x"), &Cancel::new());
    let error = promptly(fetch).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
}
