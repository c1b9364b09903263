//! Fetching media, with and without faults.

use std::time::Duration;

use civic_fake_services::{Answer, FakeServer, Twilio, sequence};

use super::*;
use crate::Kind;

fn kind(answer: Answer) -> Kind {
    let server = FakeServer::start(sequence([answer]));
    let error = fetch(&server, LIMITS).unwrap_err();
    assert_shows_no_secret(&error);
    error.kind()
}

fn jpeg(body: impl Into<Vec<u8>>) -> Answer {
    Answer::file("image/jpeg", body)
}

#[test]
fn a_file_is_fetched_through_the_redirect_of_twilio() {
    let twilio = Twilio::start(SID, TOKEN);
    let url = twilio.offer("image/jpeg", "bytes");
    let media = source(&twilio.hosts(), LIMITS).fetch(&url, &Cancel::new()).unwrap();
    assert_eq!(media, Media { content_type: "image/jpeg".to_owned(), body: b"bytes".to_vec() });
}

#[test]
fn case_and_parameters_of_a_content_type_do_not_matter() {
    let server = FakeServer::start(sequence([Answer::file("Image/PNG; name=x", "x")]));
    assert_eq!(fetch(&server, LIMITS).unwrap().content_type, "image/png");
}

#[test]
fn a_content_type_outside_the_list_is_refused() {
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
fn fifty_megabytes_are_fetched() {
    let limits = Limits { max_size: 50 * 1024 * 1024, ..LIMITS };
    let server = FakeServer::start(sequence([jpeg(vec![7; 50 * 1024 * 1024])]));
    assert_eq!(fetch(&server, limits).unwrap().body.len(), 50 * 1024 * 1024);
}

#[test]
fn a_file_over_the_limit_is_refused_whatever_its_content_length() {
    let large = vec![7; LIMITS.max_size as usize + 1];
    assert_eq!(kind(jpeg(large.clone())), Kind::TooLarge);
    // The body is not waited for if its Content-Length is over the limit.
    let declared =
        jpeg("x").header("content-length", "99999999999").dripping(1, Duration::from_secs(3600));
    assert_eq!(kind(declared), Kind::TooLarge);
    // Without a length, the bytes are counted as they arrive.
    assert_eq!(kind(jpeg(vec![7; 4096]).endless()), Kind::TooLarge);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\n\r\n";
    assert_eq!(kind(Answer::raw([head.as_bytes(), &large].concat())), Kind::TooLarge);
}

#[test]
fn bytes_after_the_content_length_are_ignored() {
    let server = FakeServer::start(sequence([jpeg("12345678").header("content-length", "5")]));
    assert_eq!(fetch(&server, LIMITS).unwrap().body, b"12345");
}

#[test]
fn an_incomplete_file_is_an_error() {
    assert_eq!(kind(jpeg(vec![7; 1000]).cut_after(500)), Kind::CutShort);
    assert_eq!(kind(Answer::hang_up()), Kind::CutShort);
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n";
    assert_eq!(kind(Answer::raw(chunked)), Kind::CutShort);
}

#[test]
fn a_compressed_file_is_refused() {
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
fn endless_headers_are_refused() {
    let server = FakeServer::start(sequence([Answer::header_bomb()]));
    let error = promptly(|| fetch(&server, LIMITS)).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(error.message().contains("too large"), "{error}");
}

#[test]
fn a_response_that_is_not_http_is_malformed() {
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
fn two_content_lengths_are_malformed() {
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\n12345";
    assert_eq!(kind(Answer::raw(smuggled)), Kind::Malformed);
}

#[test]
fn a_server_that_never_answers_times_out() {
    let server = FakeServer::start(sequence([Answer::black_hole()]));
    let error = promptly(|| fetch(&server, short(LIMITS))).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
}

#[test]
fn a_server_that_sends_very_slowly_times_out() {
    let drip = || jpeg(vec![7; 100_000]).dripping(1, Duration::from_millis(50));
    let server = FakeServer::start(sequence([drip()]));
    let limits = Limits { total: Duration::from_millis(700), ..LIMITS };
    let error = promptly(|| fetch(&server, limits)).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert!(error.message().contains("longer than 700ms"), "{error}");
    // The head arrives, the body does not.
    let stalled = jpeg("x").dripping(1, Duration::from_secs(3600));
    let server = FakeServer::start(sequence([stalled]));
    let error = promptly(|| fetch(&server, short(LIMITS))).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert!(error.message().contains("no data"), "{error}");
}

#[test]
fn a_status_decides_whether_a_retry_may_succeed() {
    for (status, expected, is_transient) in [
        (401, Kind::MediaUnauthorized, false),
        (403, Kind::MediaUnauthorized, false),
        (404, Kind::MediaNotFound, true),
        (408, Kind::TimedOut, true),
        (410, Kind::Rejected, false),
        (413, Kind::TooLarge, false),
        (415, Kind::UnsupportedType, false),
        (425, Kind::Busy, true),
        (429, Kind::Busy, true),
        (500, Kind::ServerError, true),
        (503, Kind::ServerError, true),
        (204, Kind::Malformed, true),
        (206, Kind::Malformed, true),
    ] {
        let found = kind(Answer::new(status));
        assert_eq!((found, found.is_transient()), (expected, is_transient), "{status}");
    }
    let server = FakeServer::start(sequence([Answer::new(429).header("retry-after", "3")]));
    let error = fetch(&server, LIMITS).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
}

#[test]
fn a_proxy_of_the_environment_is_not_used() {
    let server = FakeServer::start(sequence([jpeg("x")]));
    let proxy = FakeServer::start(sequence([jpeg("from the proxy")]));
    let url = proxy.url("/");
    let names = ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"];
    let environment: Vec<_> = names.iter().map(|name| (*name, url.as_str())).collect();
    fetch_in_a_process(&server, &environment).unwrap();
    assert_eq!((server.count(), proxy.connections()), (1, 0));
}
