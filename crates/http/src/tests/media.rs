//! Fetching, in good weather and bad.

use std::time::Duration;

use civic_fake_services::{Answer, FakeServer, Twilio, sequence};

use super::*;
use crate::Kind;

fn kind(answer: Answer) -> Kind {
    let server = FakeServer::start(sequence([answer]));
    let error = fetch(&server, quick(LIMITS)).unwrap_err();
    assert_tells_no_secret(&error);
    error.kind()
}

fn jpeg(body: impl Into<Vec<u8>>) -> Answer {
    Answer::file("image/jpeg", body)
}

#[test]
fn a_file_comes_the_way_twilio_sends_it() {
    let twilio = Twilio::start(SID, TOKEN);
    let url = twilio.offer("image/jpeg", "bytes");
    let media = source(&twilio.hosts(), LIMITS).fetch(&url, &Cancel::new()).unwrap();
    assert_eq!(media, Media { content_type: "image/jpeg".to_owned(), body: b"bytes".to_vec() });
}

#[test]
fn a_content_type_counts_without_case_and_parameters() {
    let server = FakeServer::start(sequence([Answer::file("Image/PNG; name=x", "x")]));
    assert_eq!(fetch(&server, LIMITS).unwrap().content_type, "image/png");
}

#[test]
fn a_content_type_outside_the_list_is_not_believed() {
    for content_type in
        ["text/html", "image/svg+xml", "application/octet-stream", "image/jpegx", ""]
    {
        assert_eq!(kind(Answer::file(content_type, "x")), Kind::UnsupportedType, "{content_type}");
    }
    assert_eq!(kind(Answer::new(200).body("x")), Kind::UnsupportedType);
}

#[test]
fn an_empty_file_and_the_largest_are_files() {
    for size in [0, LIMITS.max_size as usize] {
        let server = FakeServer::start(sequence([jpeg(vec![7; size])]));
        assert_eq!(fetch(&server, LIMITS).unwrap().body.len(), size);
    }
}

#[test]
fn fifty_megabytes_come() {
    let limits = Limits { max_size: 50 * 1024 * 1024, ..LIMITS };
    let server = FakeServer::start(sequence([jpeg(vec![7; 50 * 1024 * 1024])]));
    assert_eq!(fetch(&server, limits).unwrap().body.len(), 50 * 1024 * 1024);
}

#[test]
fn a_file_over_the_limit_is_given_up_whatever_was_promised() {
    let large = vec![7; LIMITS.max_size as usize + 1];
    assert_eq!(kind(jpeg(large.clone())), Kind::TooLarge);
    // Not waited for, where it is told at once.
    let told =
        jpeg("x").header("content-length", "99999999999").dripping(1, Duration::from_secs(3600));
    assert_eq!(kind(told), Kind::TooLarge);
    // No length at all, and no end: only counting helps.
    assert_eq!(kind(jpeg(vec![7; 4096]).endless()), Kind::TooLarge);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\n\r\n";
    assert_eq!(kind(Answer::raw([head.as_bytes(), &large].concat())), Kind::TooLarge);
}

#[test]
fn a_file_larger_than_promised_is_no_larger() {
    let server = FakeServer::start(sequence([jpeg("12345678").header("content-length", "5")]));
    assert_eq!(fetch(&server, LIMITS).unwrap().body, b"12345");
}

#[test]
fn a_file_cut_short_is_none() {
    assert_eq!(kind(jpeg(vec![7; 1000]).cut_after(500)), Kind::CutShort);
    assert_eq!(kind(Answer::hang_up()), Kind::CutShort);
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n";
    assert_eq!(kind(Answer::raw(chunked)), Kind::CutShort);
}

#[test]
fn a_gzip_bomb_is_not_unpacked() {
    let server = FakeServer::start(sequence([jpeg("small").header("content-encoding", "gzip")]));
    assert_eq!(fetch(&server, LIMITS).unwrap_err().kind(), Kind::UnsupportedType);
    assert_eq!(server.requests()[0].header("accept-encoding"), Some("identity"));
    for encoding in ["br", "deflate", "zstd", "identity, gzip"] {
        assert_eq!(kind(jpeg("x").header("content-encoding", encoding)), Kind::UnsupportedType);
    }
    let server = FakeServer::start(sequence([jpeg("x").header("content-encoding", "identity")]));
    assert!(fetch(&server, LIMITS).is_ok());
}

#[test]
fn a_header_bomb_does_not_fill_the_memory() {
    let server = FakeServer::start(sequence([Answer::header_bomb()]));
    let error = within(Duration::from_secs(5), || fetch(&server, LIMITS)).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(error.message().contains("too large"), "{error}");
}

#[test]
fn what_is_not_http_is_told() {
    for bytes in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "HTTP/1.1 999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
    ] {
        assert_eq!(kind(Answer::raw(bytes)), Kind::Malformed, "{bytes:?}");
    }
}

#[test]
fn two_lengths_are_not_one() {
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\n12345";
    assert_eq!(kind(Answer::raw(smuggled)), Kind::Malformed);
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let server = FakeServer::start(sequence([Answer::black_hole()]));
    let error = within(Duration::from_secs(5), || fetch(&server, quick(LIMITS))).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
}

#[test]
fn a_drip_for_hours_ends_in_time() {
    let drip = || jpeg(vec![7; 100_000]).dripping(1, Duration::from_millis(50));
    let server = FakeServer::start(sequence([drip()]));
    let limits = Limits { total: Duration::from_millis(700), ..LIMITS };
    let error = within(Duration::from_secs(5), || fetch(&server, limits)).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert!(error.message().contains("longer than 700ms"), "{error}");
    assert_eq!(kind(jpeg(vec![7; 100]).dripping(1, Duration::from_secs(3600))), Kind::TimedOut);
}

#[test]
fn a_status_means_what_a_retry_would_bring() {
    for (status, expected, heals) in [
        (401, Kind::Unauthorized, false),
        (403, Kind::Unauthorized, false),
        (404, Kind::MediaNotFound, true),
        (410, Kind::Rejected, false),
        (413, Kind::TooLarge, false),
        (415, Kind::UnsupportedType, false),
        (429, Kind::Busy, true),
        (500, Kind::ServerError, true),
        (503, Kind::ServerError, true),
        (204, Kind::Malformed, true),
        (206, Kind::Malformed, true),
    ] {
        let found = kind(Answer::new(status));
        assert_eq!((found, found.may_heal()), (expected, heals), "{status}");
    }
    let server = FakeServer::start(sequence([Answer::new(429).header("retry-after", "3")]));
    let error = fetch(&server, LIMITS).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
}

#[test]
fn a_proxy_of_the_environment_is_not_asked() {
    let server = FakeServer::start(sequence([jpeg("x")]));
    let proxy = FakeServer::start(sequence([jpeg("from the proxy")]));
    let url = proxy.url("/");
    let names = ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"];
    let environment: Vec<_> = names.iter().map(|name| (*name, url.as_str())).collect();
    fetches_elsewhere(&server, &environment).unwrap();
    assert_eq!((server.count(), proxy.connections()), (1, 0));
}
