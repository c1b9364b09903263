//! civic.download_and_upload_media(): from Twilio into Storage while the caller waits.

use civic_fake_services::Answer;

use super::{ACCOUNT, PHOTO, TOKEN, Town, json};
use crate::pg_tests::support::{TENANT, literal};

pub(super) fn download(url: &str) -> String {
    format!(
        "SELECT civic.download_and_upload_media({}, 'image/jpeg', 'ticket', '{TENANT}')",
        literal(url)
    )
}

#[test]
fn media_goes_from_twilio_into_storage() {
    let town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    let answer = json(&mut town.service_role(), &download(&url));
    let path = answer["path"].as_str().expect("a path");
    let object = town.storage.object("evidence", path).expect("it is stored");
    assert_eq!((object.body.as_slice(), object.content_type.as_str()), (PHOTO, "image/jpeg"));
    assert_eq!(town.twilio.media().requests()[0].header("authorization"), None);
}

#[test]
fn the_content_type_is_the_received_one_and_not_the_announced_one() {
    let town = Town::new();
    let url = town.twilio.offer("image/png", PHOTO);
    let answer = json(&mut town.service_role(), &download(&url));
    assert_eq!(answer["content_type"], "image/png");
    for content_type in ["text/html", "image/svg+xml", "application/octet-stream", ""] {
        let said = download(&url).replace("image/jpeg", content_type);
        assert_eq!(town.service_role().sqlstate(&said), "22023", "{content_type}");
        let url = town.twilio.offer(content_type, PHOTO);
        let error = town.service_role().error(&download(&url));
        assert_eq!(error.code().code(), "22023", "{content_type}");
    }
    assert_eq!(town.storage.objects().len(), 1);
}

#[test]
fn only_hosts_of_the_setting_are_contacted() {
    let town = Town::new();
    let stranger = civic_fake_services::FakeServer::start(|_| Answer::file("image/jpeg", PHOTO));
    let port = stranger.port();
    let mut session = town.service_role();
    for url in [
        stranger.url("/photo.jpg"),
        format!("http://localhost:{port}/photo.jpg"),
        format!("http://[::ffff:127.0.0.1]:{port}/photo.jpg"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "https://api.twilio.com.evil.example/x".to_owned(),
        format!("https://api.twilio.com@127.0.0.1:{port}/x"),
        "file:///etc/passwd".to_owned(),
        "ftp://api.twilio.com/x".to_owned(),
        "not a url".to_owned(),
        String::new(),
    ] {
        let error = session.error(&download(&url));
        assert_eq!(error.code().code(), "22023", "{url}");
        assert!(error.hint().expect("a hint").contains("civic.media_hosts"), "{error:?}");
    }
    assert_eq!(stranger.connections(), 0);
    let elsewhere = town.twilio.offer_answer(Answer::redirect(&stranger.url("/photo.jpg")));
    assert_eq!(session.sqlstate(&download(&elsewhere)), "22023");
    assert_eq!(stranger.connections(), 0);
    assert!(town.storage.objects().is_empty());
}

#[test]
fn a_file_that_is_too_large_is_not_stored() {
    let town = Town::new();
    town.configure(&[("civic.media_max_size", "1kB")]);
    let mut session = town.service_role();
    let url = town.twilio.offer("image/jpeg", vec![0; 1024]);
    session.text(&download(&url));
    for answer in [
        Answer::file("image/jpeg", vec![0; 1025]),
        Answer::file("image/jpeg", vec![0; 700]).endless(),
        Answer::file("image/jpeg", vec![0; 5000]).header("content-length", "10000000000"),
    ] {
        let url = town.twilio.offer_answer(answer);
        let error = session.error(&download(&url));
        assert_eq!(error.code().code(), "54000", "{error:?}");
        assert!(error.hint().expect("a hint").contains("civic.media_max_size"));
    }
    assert_eq!(town.storage.objects().len(), 1);
}

#[test]
fn wrong_credentials_are_reported_and_not_shown() {
    let town = Town::new();
    let url = town.twilio.offer("image/jpeg", PHOTO);
    for (setting, value) in [
        ("civic.twilio_auth_token", "a-wrong-token-that-nobody-sees"),
        ("civic.twilio_account_sid", "AC-wrong"),
        ("civic.service_key", "a-wrong-key-that-nobody-sees"),
    ] {
        town.configure(&[(setting, value)]);
        let error = town.service_role().error(&download(&url));
        assert_eq!(error.code().code(), "28000", "{setting}: {error:?}");
        // The hint names what was refused, and not the other service's credentials.
        let hint = error.hint().expect("a hint");
        let is_of_twilio = setting.starts_with("civic.twilio");
        assert_eq!(hint.contains("civic.twilio_auth_token"), is_of_twilio, "{setting}: {hint}");
        assert_eq!(hint.contains("civic.service_key"), !is_of_twilio, "{setting}: {hint}");
        assert!(!format!("{error:?}").contains("nobody-sees"), "{error:?}");
        town.configure(&[
            ("civic.twilio_auth_token", TOKEN),
            ("civic.twilio_account_sid", ACCOUNT),
            ("civic.service_key", town.storage.service_key()),
        ]);
    }
    assert!(town.storage.objects().is_empty());
    town.service_role().text(&download(&url));
}
