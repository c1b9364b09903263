//! Which hosts are sent the credentials.

use civic_fake_services::{Answer, FakeServer, Twilio, sequence};

use super::*;
use crate::Kind;

fn jpeg() -> Answer {
    Answer::file("image/jpeg", "bytes")
}

#[test]
fn twilio_is_sent_the_credentials_and_the_host_behind_it_is_not() {
    let twilio = Twilio::start(SID, TOKEN);
    let url = twilio.offer("image/jpeg", "bytes");
    source(&twilio.hosts(), LIMITS).fetch(&url, &Cancel::new()).unwrap();
    // `printf 'AC0123456789:twilio-token-hunter2' | base64`
    let expected = "Basic QUMwMTIzNDU2Nzg5OnR3aWxpby10b2tlbi1odW50ZXIy";
    assert_eq!(twilio.api().requests()[0].header("authorization"), Some(expected));
    assert_eq!(twilio.media().requests()[0].header("authorization"), None);
    assert_eq!(twilio.media().requests()[0].header("referer"), None);
}

#[test]
fn a_media_host_that_is_requested_first_is_sent_no_credentials() {
    let (api, media) =
        (FakeServer::start(sequence([jpeg()])), FakeServer::start(sequence([jpeg()])));
    let source = source(&format!("{}, {}", api.host(), media.host()), LIMITS);
    source.fetch(&media.url("/x"), &Cancel::new()).unwrap();
    assert_eq!(media.requests()[0].header("authorization"), None);
}

#[test]
fn a_redirect_back_to_twilio_is_sent_no_credentials() {
    // The host that redirects chooses what is requested from Twilio.
    let api = FakeServer::start(sequence([jpeg()]));
    let media = FakeServer::start(sequence([Answer::redirect(&api.url("/Accounts.json"))]));
    let source = source(&format!("{}, {}", api.host(), media.host()), LIMITS);
    source.fetch(&media.url("/x"), &Cancel::new()).unwrap();
    assert_eq!(api.requests()[0].header("authorization"), None);
}

#[test]
fn another_path_of_the_same_host_is_sent_no_credentials_by_a_redirect() {
    let api = FakeServer::start(sequence([Answer::redirect("/Accounts.json"), jpeg()]));
    fetch(&api, LIMITS).unwrap();
    assert!(api.requests()[0].header("authorization").is_some());
    assert_eq!(api.requests()[1].header("authorization"), None);
}

#[test]
fn another_port_of_the_same_address_is_another_host() {
    let (api, other) =
        (FakeServer::start(sequence([jpeg()])), FakeServer::start(sequence([jpeg()])));
    let error = source(&api.host(), LIMITS).fetch(&other.url("/x"), &Cancel::new()).unwrap_err();
    assert_eq!((error.kind(), other.connections()), (Kind::Refused, 0));
}

#[test]
fn wrong_credentials_are_reported_and_not_shown() {
    let twilio = Twilio::start(SID, "another token");
    let url = twilio.offer("image/jpeg", "bytes");
    let error = source(&twilio.hosts(), LIMITS).fetch(&url, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::MediaUnauthorized);
    assert_shows_no_secret(&error);
}

#[test]
fn a_printed_client_shows_no_secret() {
    let source = source("api.twilio.com", LIMITS);
    let api = StorageApi::new("https://h/storage/v1", Secret::new(KEY), LIMITS).unwrap();
    assert!(!format!("{source:?} {api:?}").contains("hunter2"));
}

#[test]
fn credentials_are_sent_by_plain_http_to_a_loopback_address_only() {
    // Addresses of documentation, and of a private network.
    for host in ["192.0.2.1:8080", "[2001:db8::1]:8080", "10.255.255.1:8080"] {
        let source = source(host, short(LIMITS));
        let url = format!("http://{host}/2010-04-01/media");
        let refused = source.check(&url).expect_err("it is not even enqueued");
        assert_eq!(refused.kind(), Kind::Refused, "{host}: {refused}");
        assert!(refused.message().contains("https"), "{refused}");
        let refused = promptly(|| source.fetch(&url, &Cancel::new()));
        let refused = refused.expect_err("nothing is sent");
        assert_eq!(refused.kind(), Kind::Refused, "{host}: {refused}");
    }
    // Any address is allowed by https, and for a host that is sent no credentials.
    let source = source("192.0.2.1:8080, 192.0.2.2:8080", LIMITS);
    source.check("https://192.0.2.1:8080/x").unwrap();
    source.check("http://192.0.2.2:8080/x").unwrap();
}

#[test]
fn a_name_that_is_sent_credentials_without_https_must_resolve_to_loopback_addresses() {
    use reqwest::dns::Resolve;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let resolve = |name: &str| {
        let addresses = crate::address::Addresses::Loopback;
        let resolver = crate::resolver::Resolver { addresses, lookups: 64 };
        let addresses = runtime.block_on(resolver.resolve(name.parse().unwrap()));
        addresses.map(|found| found.map(|it| it.ip().to_string()).collect::<Vec<_>>())
    };
    assert_eq!(resolve("127.0.0.7").unwrap(), ["127.0.0.7"]);
    assert!(resolve("localhost").is_ok_and(|found| !found.is_empty()));
    for name in ["192.0.2.1", "10.0.0.1", "0.0.0.0"] {
        let error = resolve(name).unwrap_err();
        assert!(error.to_string().contains("without https"), "{error}");
    }
}
