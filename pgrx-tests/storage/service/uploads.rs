//! civic.upload_file(): files that the server stores.

use civic_fake_services::{Entry, Errors, Options};

use super::{PHOTO, Town, json};
use crate::pg_tests::support::{Session, TENANT, claims, literal};

fn upload(path: &str) -> String {
    format!(
        "SELECT civic.upload_file('evidence', {}, 'a photo'::bytea, 'image/jpeg')",
        literal(path)
    )
}

#[test]
fn a_file_is_stored_unchanged() {
    let town = Town::new();
    let path = format!("{TENANT}/f/it's a photo (1) & $2+@=;:,.jpg");
    let answer = json(&mut town.service_role(), &upload(&path));
    assert_eq!(answer, serde_json::json!({"bucket": "evidence", "path": path}));
    let object = town.storage.object("evidence", &path).expect("it is there");
    assert_eq!(
        (object.body.as_slice(), object.content_type.as_str()),
        (&b"a photo"[..], "image/jpeg")
    );
    let request = &town.storage.server().requests()[0];
    assert_eq!(request.header("x-upsert"), Some("false"));
}

#[test]
fn a_key_that_is_not_a_jwt_works_through_the_gateway_and_not_at_the_api() {
    for (entry, works) in [(Entry::Gateway, true), (Entry::Api, false)] {
        let service_key = Some("sb_secret_nobody-sees".to_owned());
        let town = Town::with(Options { service_key, entry, ..Options::default() });
        let path = format!("{TENANT}/f/a.jpg");
        let mut session = town.service_role();
        if works {
            session.text(&upload(&path));
            assert!(town.storage.object("evidence", &path).is_some());
        } else {
            let error = session.error(&upload(&path));
            assert_eq!(error.code().code(), "28000");
            assert!(error.hint().expect("a hint").contains("civic.supabase_url"), "{error:?}");
            assert!(!format!("{error:?}").contains("nobody-sees"), "{error:?}");
        }
        assert_eq!(town.storage.server().requests()[0].header("authorization"), None);
    }
}

#[test]
fn a_refused_path_names_its_reason() {
    let town = Town::new();
    let mut session = town.service_role();
    for (name, reason) in [
        ("Café.jpg", "it contains \"é\", which the Storage API refuses"),
        ("100%.jpg", "it contains \"%\", which the Storage API refuses"),
        ("", "it is not of the form tenant/id/filename"),
    ] {
        let error = session.error(&upload(&format!("{TENANT}/f/{name}")));
        assert_eq!(error.code().code(), "22023");
        assert!(error.message().ends_with(reason), "{error:?}");
    }
}

#[test]
fn an_empty_file_and_one_of_fifty_megabytes_are_stored() {
    let town = Town::new();
    let mut session = town.service_role();
    for size in [0, 50 * 1024 * 1024] {
        let path = format!("{TENANT}/f/{size}.mp4");
        session.text(&format!(
            "SELECT civic.upload_file('evidence', '{path}',
                                      convert_to(repeat('x', {size}), 'UTF8'), 'video/mp4')"
        ));
        assert_eq!(town.storage.object("evidence", &path).expect("stored").body.len(), size);
    }
    let error = session.error(&format!(
        "SELECT civic.upload_file('evidence', '{TENANT}/f/more',
                                  convert_to(repeat('x', 50 * 1024 * 1024 + 1), 'UTF8'), 'video/mp4')"
    ));
    assert_eq!(error.code().code(), "22023");
    assert!(error.hint().expect("a hint").contains("civic.media_max_size"), "{error:?}");
}

#[test]
fn an_existing_file_is_not_overwritten() {
    for errors in [Errors::InBody, Errors::AsStatus] {
        let town = Town::with(Options { errors, ..Options::default() });
        let path = format!("{TENANT}/f/a.jpg");
        let mut session = town.service_role();
        session.text(&upload(&path));
        let second = upload(&path).replace("a photo", "another");
        assert_eq!(session.sqlstate(&second), "42710");
        assert_eq!(town.storage.object("evidence", &path).expect("stored").body, b"a photo");
    }
}

#[test]
fn only_the_three_buckets_and_valid_paths_are_accepted() {
    let town = Town::new();
    let mut session = town.service_role();
    let call = |bucket: &str, path: &str, content_type: &str| {
        format!(
            "SELECT civic.upload_file({}, {}, 'x'::bytea, {})",
            literal(bucket),
            literal(path),
            literal(content_type)
        )
    };
    let proper = format!("{TENANT}/f/a.jpg");
    for bucket in ["avatars", "", "evidence/x", "Evidence", ".."] {
        assert_eq!(session.sqlstate(&call(bucket, &proper, "image/jpeg")), "22023", "{bucket}");
    }
    for path in [
        "",
        "a.jpg",
        "t/a.jpg",
        "t//a.jpg",
        "/t/f/a.jpg",
        "t/f/",
        "t/../u/f/a.jpg",
        "t/f/é.jpg",
        "t/f/a%2F..%2Fb.jpg",
        "t/f/a#b.jpg",
        "t/f/a\r\nx-upsert: true",
    ] {
        assert_eq!(session.sqlstate(&call("evidence", path, "image/jpeg")), "22023", "{path}");
    }
    let too_long = format!("t/f/{}", "x".repeat(1024));
    assert_eq!(session.sqlstate(&call("evidence", &too_long, "image/jpeg")), "54000");
    for content_type in ["", "jpeg", "image/jpeg\r\nx-upsert: true", "a/b/c"] {
        assert_eq!(session.sqlstate(&call("evidence", &proper, content_type)), "22023");
    }
    assert_eq!(town.storage.server().count(), 0, "nothing was sent");
}

#[test]
fn a_null_argument_is_an_error() {
    let town = Town::new();
    let mut session = town.service_role();
    for arguments in [
        "NULL, 't/f/a', 'x'::bytea, 'image/png'",
        "'evidence', NULL, 'x'::bytea, 'image/png'",
        "'evidence', 't/f/a', NULL, 'image/png'",
        "'evidence', 't/f/a', 'x'::bytea, NULL",
    ] {
        let state = session.sqlstate(&format!("SELECT civic.upload_file({arguments})"));
        assert_eq!(state, "22023", "{arguments}");
    }
}

/// Every function that uses a key of the server.
pub(super) const SERVER_SIDE: [&str; 2] = [
    "SELECT civic.upload_file('evidence', 't/f/a', 'x'::bytea, 'image/png')",
    "SELECT civic.download_and_upload_media('https://api.twilio.com/x', 'image/png', 'k', 't')",
];

#[test]
fn only_the_server_role_can_use_its_keys() {
    let town = Town::new();
    let refused = |session: &mut Session, sql: &str| session.sqlstate(sql) == "42501";
    for sql in SERVER_SIDE {
        for role in ["citizen", "manager", "saps_liaison", "admin"] {
            assert!(refused(&mut town.person(role), sql), "{role}: {sql}");
        }
        // A claim alone is not enough: the database role that the gateway has set counts.
        let forged = r#"{"role": "service_role"}"#;
        assert!(refused(&mut town.acting_as("authenticated", forged), sql), "{sql}");
        assert!(refused(&mut town.acting_as("anon", &claims(TENANT, "admin")), sql), "{sql}");
        let mut session = town.superuser();
        session.run("DO $$ BEGIN CREATE ROLE somebody; EXCEPTION WHEN duplicate_object THEN END $$; SET ROLE somebody");
        assert!(refused(&mut session, sql), "{sql}");
    }
    assert_eq!(town.storage.server().count() + town.twilio.api().count(), 0);
}

#[test]
fn an_upload_outlives_a_rolled_back_transaction() {
    let town = Town::new();
    let path = format!("{TENANT}/f/a.jpg");
    let mut session = town.service_role();
    session.run("BEGIN");
    session.text(&upload(&path));
    session.run("ROLLBACK");
    assert!(town.storage.object("evidence", &path).is_some());
}

#[test]
fn a_photo_with_every_byte_arrives_whole() {
    let town = Town::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).chain(PHOTO.iter().copied()).collect();
    let path = format!("{TENANT}/f/bytes.jpg");
    let mut session = town.service_role();
    let sql = "SELECT civic.upload_file('evidence', $1, $2, 'image/jpeg')";
    session.client().query_one(sql, &[&path, &bytes]).expect("it is stored");
    assert_eq!(town.storage.object("evidence", &path).expect("stored").body, bytes);
}
