//! The Storage API's responses, and what they mean.

use std::time::Duration;

use civic_fake_services::{Answer, Entry, Errors, FakeServer, Options, Storage, sequence};
use serde_json::json;

use super::*;
use crate::{Kind, Stat};

#[test]
fn a_file_is_uploaded_as_it_is() {
    let storage = storage();
    let id = upload(&api(&storage), PATH, "bytes").unwrap().unwrap();
    let object = storage.object("evidence", PATH).unwrap();
    assert_eq!((object.id, object.body), (id, b"bytes".to_vec()));
    assert_eq!(object.content_type, "image/jpeg");
    let request = &storage.server().requests()[0];
    assert_eq!(request.header("x-upsert"), Some("false"));
    assert_eq!(request.header("content-length"), Some("5"));
    assert_eq!(
        request.header("authorization"),
        Some(&*format!("Bearer {}", storage.service_key()))
    );
    assert_eq!(request.header("apikey"), Some(storage.service_key()));
}

/// A key of the form that replaces the JWT of `service_role`.
const SECRET_KEY: &str = "sb_secret_hunter2";

fn with_secret_key(entry: Entry) -> Storage {
    let service_key = Some(SECRET_KEY.to_owned());
    Storage::start(Options { service_key, entry, ..Options::default() })
}

#[test]
fn a_key_that_is_not_a_jwt_is_sent_as_apikey_alone() {
    let storage = with_secret_key(Entry::Gateway);
    upload(&api(&storage), PATH, "bytes").unwrap();
    api(&storage).stat("evidence", PATH, &Cancel::new()).unwrap().unwrap();
    for request in storage.server().requests() {
        assert_eq!(request.header("apikey"), Some(SECRET_KEY));
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn the_api_itself_refuses_a_key_that_is_not_a_jwt() {
    let error = upload(&api(&with_secret_key(Entry::Api)), PATH, "bytes").unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert_shows_no_secret(&error);
}

#[test]
fn a_jwt_is_sent_to_the_gateway_and_to_the_api_alike() {
    for entry in [Entry::Gateway, Entry::Api] {
        let storage = Storage::start(Options { entry, ..Options::default() });
        upload(&api(&storage), PATH, "bytes").unwrap();
    }
}

#[test]
fn an_empty_file_is_a_file() {
    let storage = storage();
    upload(&api(&storage), PATH, "").unwrap();
    assert_eq!(storage.object("evidence", PATH).unwrap().body, b"");
    assert_eq!(storage.server().requests()[0].header("content-length"), Some("0"));
    let stat = api(&storage).stat("evidence", PATH, &Cancel::new()).unwrap();
    assert_eq!(stat.unwrap().size, 0);
}

#[test]
fn any_characters_of_a_path_arrive() {
    let server = FakeServer::start(|request| {
        let path = request.path();
        let key = path.strip_prefix("/storage/v1/object/").unwrap();
        Answer::json(200, &json!({"Key": key, "Id": "1"}))
    });
    let api = api_of(&server, LIMITS);
    for path in [
        "t/f/é à 日本.jpg",
        "t/f/100%.jpg",
        "t/f/a#b?c=d&e.jpg",
        "t/f/ a b .jpg",
        "t/f/%2e%2e",
        "t/f/a\\b",
    ] {
        upload(&api, path, "x").unwrap();
    }
    let requests = server.requests();
    assert_eq!(
        requests[0].target,
        "/storage/v1/object/evidence/t/f/%C3%A9%20%C3%A0%20%E6%97%A5%E6%9C%AC.jpg"
    );
    assert_eq!(requests[1].target, "/storage/v1/object/evidence/t/f/100%25.jpg");
}

#[test]
fn a_path_that_a_url_cannot_express_is_not_sent() {
    let storage = storage();
    let api = api(&storage);
    for path in ["../secret", "t/../u/a.jpg", "t//a.jpg", "", "/t/f/a"] {
        assert_eq!(upload(&api, path, "x").unwrap_err().kind(), Kind::Invalid, "{path:?}");
        assert!(api.stat("evidence", path, &Cancel::new()).is_err());
        assert!(api.remove("evidence", path, &Cancel::new()).is_err());
        assert!(api.sign("evidence", path, Duration::from_secs(1), &Cancel::new()).is_err());
    }
    assert!(api.stat("evidence/t", "f/a", &Cancel::new()).is_err());
    assert_eq!(storage.server().connections(), 0);
}

#[test]
fn a_header_cannot_be_injected() {
    let storage = storage();
    let api = api(&storage);
    let content_type = "image/jpeg\r\nx-upsert: true";
    let refused = api.upload("evidence", PATH, content_type, vec![], &Cancel::new());
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
    let key = Secret::new("key\r\nx-upsert: true");
    let error = StorageApi::new(&storage.url(), key, LIMITS).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(!error.message().contains("upsert"), "{error}");
}

#[test]
fn an_invalid_base_url_is_refused() {
    for url in [
        "",
        "storage",
        "ftp://h/storage/v1",
        "file:///storage",
        "https://u:hunter2@h/",
        "https://h/?x=hunter2",
        "https://h/#x",
        "https://",
    ] {
        let error = StorageApi::new(url, Secret::new(KEY), LIMITS).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{url:?}");
        assert_shows_no_secret(&error);
    }
}

#[test]
fn an_existing_name_is_a_duplicate_in_both_forms_of_error() {
    for errors in [Errors::InBody, Errors::AsStatus] {
        let storage = Storage::start(Options { errors, ..Options::default() });
        let api = api(&storage);
        upload(&api, PATH, "first").unwrap();
        let error = upload(&api, PATH, "second").unwrap_err();
        assert_eq!(error.kind(), Kind::Duplicate);
        assert!(error.message().contains("409: The resource already exists"), "{error}");
        assert_eq!(storage.object("evidence", PATH).unwrap().body, b"first");
    }
}

#[test]
fn stat_returns_size_and_type_of_a_file() {
    for errors in [Errors::InBody, Errors::AsStatus] {
        let storage = Storage::start(Options { errors, ..Options::default() });
        let api = api(&storage);
        let stat = |path| api.stat("evidence", path, &Cancel::new()).unwrap();
        upload(&api, "t/f/a b.jpg", "12345").unwrap();
        let known = Stat { content_type: Some("image/jpeg".to_owned()), size: 5 };
        assert_eq!(stat("t/f/a b.jpg"), Some(known));
        assert_eq!(stat("t/f/other.jpg"), None);
    }
}

#[test]
fn a_link_carries_the_token_of_the_api() {
    let storage = storage();
    let api = api(&storage);
    upload(&api, "t/f/a b&+.jpg", "bytes").unwrap();
    let link =
        api.sign("evidence", "t/f/a b&+.jpg", Duration::from_secs(60), &Cancel::new()).unwrap();
    let (url, token) = link.split_once("?token=").unwrap();
    assert_eq!(url, format!("{}/object/sign/evidence/t/f/a%20b&+.jpg", storage.url()));
    let payload = civic_fake_services::verify_jwt(storage.jwt_secret(), token).unwrap();
    let payload: serde_json::Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(payload["url"], "evidence/t/f/a b&+.jpg");
    let lifetime = payload["exp"].as_u64().unwrap() - payload["iat"].as_u64().unwrap();
    assert_eq!(lifetime, 60);
}

#[test]
fn no_link_is_signed_for_a_missing_file() {
    let storage = storage();
    let signed = api(&storage).sign("evidence", PATH, Duration::from_secs(60), &Cancel::new());
    assert_eq!(signed.unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn an_invalid_link_is_not_returned() {
    for answer in [
        json!({}),
        json!({"signedURL": "/object/sign/evidence/t/f/a.jpg"}),
        json!({"signedURL": "https://evil.example/?token="}),
        json!({"signedURL": "/object/sign/evidence/t/f/a.jpg?token=a&next=https://evil.example"}),
        json!({"signedURL": "/object/sign/evidence/t/f/a.jpg?token=a\nb"}),
    ] {
        let server = FakeServer::start(sequence([Answer::json(200, &answer)]));
        let signed =
            api_of(&server, LIMITS).sign("evidence", PATH, Duration::from_secs(1), &Cancel::new());
        assert_eq!(signed.unwrap_err().kind(), Kind::Malformed, "{answer}");
    }
}

#[test]
fn a_link_leads_to_the_configured_server() {
    let answer = json!({"signedURL": "https://evil.example/object?token=abc"});
    let server = FakeServer::start(sequence([Answer::json(200, &answer)]));
    let link =
        api_of(&server, LIMITS).sign("evidence", PATH, Duration::from_secs(1), &Cancel::new());
    let expected = server.url("/storage/v1/object/sign/evidence/t/f/a.jpg?token=abc");
    assert_eq!(link.unwrap(), expected);
}

#[test]
fn a_wrong_key_is_reported_and_not_shown() {
    for errors in [Errors::InBody, Errors::AsStatus] {
        let storage = Storage::start(Options { errors, ..Options::default() });
        let api = StorageApi::new(&storage.url(), Secret::new(KEY), LIMITS).unwrap();
        let error = upload(&api, PATH, "x").unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized);
        assert_shows_no_secret(&error);
        assert_eq!(storage.objects(), []);
    }
}

#[test]
fn a_key_in_the_message_of_the_api_is_replaced() {
    let report = json!({"statusCode": "403", "message": format!("bad token {KEY}\nline")});
    let server = FakeServer::start(sequence([Answer::json(400, &report)]));
    let error = upload(&api_of(&server, LIMITS), PATH, "x").unwrap_err();
    assert_shows_no_secret(&error);
    assert!(error.message().ends_with(r"bad token [secret]\nline"), "{error}");
}

#[test]
fn an_error_has_the_kind_of_its_code() {
    let kind_of = |status, report| {
        let server = FakeServer::start(sequence([Answer::json(status, &report)]));
        upload(&api_of(&server, LIMITS), PATH, "x").unwrap_err().kind()
    };
    for (code, kind) in [
        (400, Kind::Rejected),
        (401, Kind::Unauthorized),
        (403, Kind::Unauthorized),
        (404, Kind::NotFound),
        (408, Kind::TimedOut),
        (409, Kind::Duplicate),
        (413, Kind::TooLarge),
        (415, Kind::UnsupportedType),
        (422, Kind::Rejected),
        (423, Kind::Busy),
        (425, Kind::Busy),
        (429, Kind::Busy),
        (500, Kind::ServerError),
        (503, Kind::ServerError),
        (544, Kind::ServerError),
    ] {
        assert_eq!(kind_of(code, json!({})), kind, "{code} as the status");
        let report = json!({"statusCode": code.to_string(), "error": "x", "message": "y"});
        assert_eq!(kind_of(400, report), kind, "{code} in the body");
        assert_eq!(kind_of(400, json!({"statusCode": code})), kind, "{code} in the body, a number");
    }
    assert_eq!(
        kind_of(400, json!({"statusCode": "400", "code": "InvalidJWT"})),
        Kind::Unauthorized
    );
    // An invalid code does not turn a failure into a success.
    for report in [json!({"statusCode": "200"}), json!({"statusCode": -1}), json!([]), json!(null)]
    {
        assert_eq!(kind_of(400, report), Kind::Rejected);
    }
}

#[test]
fn retry_after_is_read_as_seconds_or_a_date() {
    let wait = |value: &str| {
        let server = FakeServer::start(sequence([Answer::new(429).header("retry-after", value)]));
        upload(&api_of(&server, LIMITS), PATH, "x").unwrap_err().retry_after()
    };
    assert_eq!(wait("7"), Some(Duration::from_secs(7)));
    assert_eq!(wait("0"), Some(Duration::ZERO));
    assert_eq!(wait("99999999999"), Some(Duration::from_secs(24 * 60 * 60)));
    assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
    assert!(wait("Fri, 31 Dec 2100 23:59:59 GMT").unwrap() > Duration::from_secs(3600));
    for invalid in ["soon", "-1", "1.5", ""] {
        assert_eq!(wait(invalid), None, "{invalid:?}");
    }
}

#[test]
fn a_file_is_removed_once() {
    for errors in [Errors::InBody, Errors::AsStatus] {
        let storage = Storage::start(Options { errors, ..Options::default() });
        let api = api(&storage);
        upload(&api, PATH, "x").unwrap();
        assert_eq!(api.remove("evidence", PATH, &Cancel::new()), Ok(true));
        assert_eq!(storage.object("evidence", PATH), None);
        assert_eq!(api.remove("evidence", PATH, &Cancel::new()), Ok(false));
    }
}

#[test]
fn a_removal_without_confirmation_is_an_error() {
    for answer in [
        Answer::file("text/html", "<html>Maintenance</html>"),
        Answer::json(200, &json!({})),
        Answer::new(204),
        Answer::new(500),
    ] {
        let server = FakeServer::start(sequence([answer.clone()]));
        let error = api_of(&server, LIMITS).remove("evidence", PATH, &Cancel::new()).unwrap_err();
        assert!(error.is_transient(), "{answer:?}: {error}");
    }
}

#[test]
fn a_response_that_is_not_the_expected_json_is_malformed() {
    for answer in [
        Answer::file("text/html", "<html>Maintenance</html>"),
        Answer::json(200, &json!({"Key": "evidence/other.jpg"})),
        Answer::json(200, &json!(["Key"])),
        Answer::new(204),
        Answer::file("application/json", vec![b' '; 100_000]),
        Answer::redirect("https://evil.example/"),
    ] {
        let server = FakeServer::start(sequence([answer.clone()]));
        let error = upload(&api_of(&server, LIMITS), PATH, "x").unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed, "{answer:?}");
        let unknown = api_of(&server, LIMITS).stat("evidence", PATH, &Cancel::new());
        assert_eq!(unknown.unwrap_err().kind(), Kind::Malformed, "{answer:?}");
    }
}

#[test]
fn an_incomplete_response_is_cut_short() {
    let answer = json!({"Key": "evidence/t/f/a.jpg", "Id": "1"});
    let answers = [Answer::json(200, &answer).cut_after(3)];
    let closed = FakeServer::start(sequence(answers.clone()));
    // A server that closes the connection with unread data in it sends a reset.
    let reset = FakeServer::impatient(sequence(answers));
    for (server, body) in [(closed, vec![0; 10]), (reset, vec![0; 900_000])] {
        let error = upload(&api_of(&server, LIMITS), PATH, body).unwrap_err();
        assert_eq!(error.kind(), Kind::CutShort, "{error}");
    }
}

#[test]
fn the_key_does_not_follow_a_redirect() {
    let elsewhere = FakeServer::start(sequence([Answer::new(200)]));
    let server = FakeServer::start(sequence([Answer::redirect(&elsewhere.url("/"))]));
    assert!(upload(&api_of(&server, LIMITS), PATH, "x").is_err());
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn an_upload_succeeds_after_transient_failures() {
    let storage = storage();
    let api = api(&storage);
    storage.fails_first([Answer::new(500), Answer::hang_up(), Answer::new(503)]);
    for kind in [Kind::ServerError, Kind::CutShort, Kind::ServerError] {
        let error = upload(&api, PATH, "x").unwrap_err();
        assert!(error.is_transient());
        assert_eq!(error.kind(), kind);
    }
    upload(&api, PATH, "x").unwrap();
}

#[test]
fn an_upload_whose_response_was_lost_is_found() {
    let storage = storage();
    let api = api(&storage);
    storage.answers_instead([Answer::hang_up()]);
    assert_eq!(upload(&api, PATH, "bytes").unwrap_err().kind(), Kind::CutShort);
    assert_eq!(upload(&api, PATH, "bytes").unwrap_err().kind(), Kind::Duplicate);
    assert_eq!(api.stat("evidence", PATH, &Cancel::new()).unwrap().unwrap().size, 5);
    assert_eq!(storage.objects().len(), 1);
}

#[test]
fn a_file_is_downloaded_as_it_was_uploaded() {
    let storage = storage();
    let api = api(&storage);
    for (path, body) in [(PATH, &b"\0bytes\xff"[..]), ("t/f/a & b (1).jpg", b"")] {
        upload(&api, path, body).unwrap();
        let media = api.download("evidence", path, &Cancel::new()).unwrap().unwrap();
        assert_eq!((media.content_type.as_str(), media.body.as_slice()), ("image/jpeg", body));
        let request = storage.server().requests().pop().unwrap();
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
    assert_eq!(api.download("evidence", "t/f/other.jpg", &Cancel::new()), Ok(None));
    assert_eq!(api.download("documents", PATH, &Cancel::new()), Ok(None));
}

#[test]
fn an_incomplete_download_is_an_error() {
    let file = || Answer::file("image/jpeg", vec![0; 2000]);
    let untyped = Answer::new(200).body("bytes");
    for (answer, kind) in [
        (file().endless(), Kind::TooLarge),
        (file().cut_after(1000), Kind::CutShort),
        (untyped, Kind::Malformed),
        (Answer::new(500), Kind::ServerError),
        (Answer::new(204), Kind::Malformed),
        (Answer::redirect("https://evil.example/"), Kind::Malformed),
    ] {
        let server = FakeServer::start(sequence([answer.clone()]));
        let api = api_of(&server, LIMITS);
        let error = api.download("evidence", PATH, &Cancel::new()).unwrap_err();
        assert_eq!(error.kind(), kind, "{answer:?}: {error}");
        assert_shows_no_secret(&error);
    }
}
