//! Which redirects are followed.

use civic_fake_services::{Answer, FakeServer, sequence};

use super::*;
use crate::Kind;

fn jpeg() -> Answer {
    Answer::file("image/jpeg", "bytes")
}

/// Fetches from a server that redirects there, with these other hosts in the list.
fn redirected(location: &str, others: &str) -> Result<Media, Error> {
    let server = FakeServer::start(sequence([Answer::redirect(location)]));
    let hosts = format!("{},{others}", server.host());
    source(&hosts, LIMITS).fetch(&server.url("/x"), &Cancel::new())
}

#[test]
fn a_redirect_to_another_media_host_is_followed() {
    for status in [301, 302, 303, 307, 308] {
        let there = FakeServer::start(sequence([jpeg()]));
        let url = there.url("/x");
        let here = FakeServer::start(sequence([Answer::new(status).header("location", &url)]));
        let hosts = format!("{},{}", here.host(), there.host());
        let media = source(&hosts, LIMITS).fetch(&here.url("/x"), &Cancel::new());
        assert_eq!(media.unwrap().body, b"bytes", "{status}");
        assert_eq!(there.requests()[0].method, "GET");
    }
}

#[test]
fn a_relative_redirect_stays_on_its_host() {
    let server = FakeServer::start(sequence([Answer::redirect("../y?z"), jpeg()]));
    fetch(&server, LIMITS).unwrap();
    assert_eq!(server.requests()[1].target, "/y?z");
}

#[test]
fn five_redirects_are_followed_and_no_more() {
    let chain = |length| {
        let redirects = std::iter::repeat_n(Answer::redirect("/again"), length);
        let server = FakeServer::start(sequence(redirects.chain([jpeg()])));
        (fetch(&server, LIMITS), server.count())
    };
    assert!(chain(5).0.is_ok());
    let (six, requests) = chain(6);
    assert_eq!((six.unwrap_err().kind(), requests), (Kind::Refused, 6));
}

#[test]
fn a_redirect_to_a_host_outside_the_list_is_not_followed() {
    let elsewhere = FakeServer::start(sequence([jpeg()]));
    let error = redirected(&elsewhere.url("/x?token=hunter2"), "").unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("127.0.0.1"), "{error}");
    assert_shows_no_secret(&error);
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_redirect_to_cloud_metadata_is_not_followed() {
    for location in [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:169.254.169.254]/",
        "https://[fd00:ec2::254]/",
        "https://2852039166/",
        "//169.254.169.254/",
    ] {
        // Even if the list contains the address.
        for others in ["", "169.254.169.254, [fd00:ec2::254], [::ffff:169.254.169.254]"] {
            let error = redirected(location, others).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{location}");
        }
    }
}

#[test]
fn a_redirect_to_plain_http_is_not_followed() {
    let error = redirected("http://media.twiliocdn.com/x", "media.twiliocdn.com").unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("without https"), "{error}");
}

#[test]
fn a_redirect_to_an_invalid_url_or_another_scheme_is_not_followed() {
    for location in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "javascript:alert(1)",
        "https://",
        "data:image/jpeg,x",
    ] {
        assert_eq!(redirected(location, "").unwrap_err().kind(), Kind::Refused, "{location}");
    }
    let server = FakeServer::start(sequence([Answer::new(302)]));
    assert_eq!(fetch(&server, LIMITS).unwrap_err().kind(), Kind::Malformed);
}

#[test]
fn a_name_that_resolves_to_a_private_address_is_refused() {
    // The name localhost is not refused, only the addresses that it resolves to.
    let server = FakeServer::start(sequence([jpeg()]));
    let error =
        source("localhost", LIMITS).fetch("https://localhost/x", &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("resolves to an address"), "{error}");
    // A list that names the port means this server.
    let host = format!("localhost:{}", server.port());
    let media = source(&host, LIMITS).fetch(&format!("http://{host}/x"), &Cancel::new());
    assert_eq!(media.unwrap().body, b"bytes");
}

#[test]
fn a_forbidden_url_is_refused_before_anything_is_sent() {
    let source = source("api.twilio.com", LIMITS);
    assert!(source.check("https://api.twilio.com/2010-04-01/x").is_ok());
    for url in
        ["http://api.twilio.com/", "https://evil.example/", "nonsense", "", "https://127.0.0.1/"]
    {
        assert_eq!(source.check(url).unwrap_err().kind(), Kind::Refused, "{url:?}");
    }
}
