//! Faults of the network and of both services, through SQL: one for each SQLSTATE. Each ends in a
//! clear error within a time limit, and the session continues. `crates/http` tests how faults are
//! classified.

use std::time::{Duration, Instant};

use civic_fake_services::{Answer, FakeServer};
use serde_json::json;

use super::downloads::download;
use super::{PHOTO, Town};
use crate::pg_tests::support::{TENANT, literal};

fn upload(path: &str) -> String {
    format!("SELECT civic.upload_file('evidence', {}, 'x'::bytea, 'image/jpeg')", literal(path))
}

#[test]
fn each_error_of_the_storage_api_has_its_own_sqlstate() {
    let town = Town::new();
    let error_body = |code: &str, error: &str| {
        Answer::json(400, &json!({"statusCode": code, "error": error, "message": "a reason"}))
    };
    for (answer, state) in [
        (error_body("409", "Duplicate"), "42710"),
        (error_body("413", "EntityTooLarge"), "54000"),
        (error_body("415", "InvalidMimeType"), "22023"),
        (error_body("404", "NoSuchBucket"), "P0002"),
        (error_body("403", "AccessDenied"), "28000"),
        (error_body("500", "InternalError"), "58000"),
        (Answer::new(429).header("retry-after", "7"), "53000"),
        (Answer::new(200).body("<html>not JSON"), "08P01"),
        (Answer::header_bomb(), "08P01"),
        (Answer::hang_up(), "08006"),
    ] {
        let case = format!("{answer:?}");
        town.storage.fails_first([answer]);
        let mut session = town.service_role();
        let error = session.error(&upload(&format!("{TENANT}/f/a.jpg")));
        assert_eq!(error.code().code(), state, "{case}: {error:?}");
        assert!(!error.message().is_empty() && !error.message().contains('\n'), "{error:?}");
        assert_eq!(session.text("SELECT 1"), "1");
    }
    assert!(town.storage.objects().is_empty());
}

#[test]
fn a_refused_connection_is_reported_at_once() {
    let town = Town::new();
    let gone = FakeServer::start(|_| Answer::new(200));
    let url = gone.url("");
    drop(gone);
    town.configure(&[("civic.storage_url", &url)]);
    let before = Instant::now();
    let error = town.service_role().error(&upload(&format!("{TENANT}/f/a.jpg")));
    assert_eq!(error.code().code(), "08001");
    assert!(error.hint().expect("a hint").contains("civic.storage_url"), "{error:?}");
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
}

#[test]
fn a_slow_exchange_ends_at_the_timeout() {
    let town = Town::new();
    town.configure(&[("civic.http_timeout", "500ms")]);
    let mut session = town.service_role();
    for answer in [
        Answer::black_hole(),
        Answer::file("image/jpeg", vec![7; 1000]).dripping(1, Duration::from_millis(200)),
    ] {
        let url = town.twilio.offer_answer(answer);
        let before = Instant::now();
        let error = session.error(&download(&url));
        assert_eq!(error.code().code(), "08006", "{error:?}");
        assert!(error.hint().expect("a hint").contains("civic.http_timeout"), "{error:?}");
        // A thousand bytes would drip for 200 s.
        assert!(before.elapsed() < Duration::from_secs(100), "{:?}", before.elapsed());
    }
    assert!(town.storage.objects().is_empty());
}

#[test]
fn each_error_of_the_media_host_has_its_own_sqlstate() {
    let town = Town::new();
    for (answer, state) in [
        (Answer::new(404), "P0002"),
        (Answer::new(403), "28000"),
        (Answer::file("image/jpeg", PHOTO).header("content-encoding", "gzip"), "22023"),
        (Answer::redirect("http://169.254.169.254/latest/meta-data/"), "22023"),
    ] {
        let case = format!("{answer:?}");
        let url = town.twilio.offer_answer(answer);
        let error = town.service_role().error(&download(&url));
        assert_eq!(error.code().code(), state, "{case}: {error:?}");
    }
    assert!(town.storage.objects().is_empty());
}

#[test]
fn a_fetched_file_that_cannot_be_stored_is_an_error() {
    let town = Town::new();
    town.storage.fails_first([Answer::new(500)]);
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let mut session = town.service_role();
    assert_eq!(session.sqlstate(&download(&url)), "58000");
    assert!(town.storage.objects().is_empty());
    session.text(&download(&url));
}

#[test]
fn a_link_that_cannot_be_signed_is_an_error() {
    let town = Town::new();
    town.configure(&[("civic.jwt_secret", "")]);
    let path = format!("{TENANT}/f/a.jpg");
    super::add_object(&mut town.superuser(), "evidence", &path, super::SUB);
    let link = format!("SELECT civic.get_signed_url('evidence', '{path}')");
    // The row exists but the file does not.
    assert_eq!(town.person("citizen").sqlstate(&link), "PT404");
    town.storage.fails_first([Answer::json(200, &json!({"signedURL": "javascript:alert(1)"}))]);
    assert_eq!(town.person("citizen").sqlstate(&link), "08P01");
    town.service_role().run(&upload(&path));
    assert!(town.person("citizen").text(&link).starts_with(&town.storage.url()));
}
