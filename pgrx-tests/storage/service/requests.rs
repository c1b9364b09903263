//! civic.request_upload(): the destination of a user's upload, and refusals.

use serde_json::Value;

use super::json;
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims, literal};

fn request(filename: &str, content_type: &str, size: i64, purpose: &str) -> String {
    format!(
        "SELECT civic.request_upload({}, {}, {size}, {})",
        literal(filename),
        literal(content_type),
        literal(purpose)
    )
}

fn photo(purpose: &str) -> String {
    request("photo.jpg", "image/jpeg", 1000, purpose)
}

/// The upload of the supabase-js client, as the API does it in SQL: as the caller, without
/// RETURNING.
fn upload(session: &mut Session, answer: &Value) {
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ({}, {})",
        literal(answer["bucket"].as_str().expect("a bucket")),
        literal(answer["path"].as_str().expect("a path"))
    ));
}

#[test]
fn a_requested_path_can_be_uploaded_to() {
    let database = Database::guarded();
    for (role, purpose, bucket) in [
        ("citizen", "evidence", "evidence"),
        ("citizen", "proof_of_residence", "documents"),
        ("citizen", "documents", "documents"),
        ("manager", "gbv-evidence", "gbv-evidence"),
        ("SAPS_LIAISON", "gbv-evidence", "gbv-evidence"),
    ] {
        let mut session = database.person(TENANT, role);
        let answer = json(&mut session, &photo(purpose));
        let file_id = answer["file_id"].as_str().expect("a file id");
        assert_eq!(answer["bucket"], bucket);
        assert_eq!(answer["path"], format!("{TENANT}/{file_id}/photo.jpg"));
        assert_eq!(answer.as_object().expect("an object").len(), 3);
        upload(&mut session, &answer);
    }
}

#[test]
fn each_request_has_its_own_file_id() {
    let mut session = Database::guarded().person(TENANT, "citizen");
    let ids = session.column(
        "SELECT civic.request_upload('a.jpg', 'image/jpeg', 1, 'evidence') ->> 'file_id'
         FROM generate_series(1, 100)",
    );
    let mut distinct = ids.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 100);
    assert!(ids.iter().all(|id| id.len() == 36 && &id[14..15] == "4"), "random UUIDs: {ids:?}");
}

#[test]
fn a_caller_who_may_not_upload_is_refused() {
    let database = Database::guarded();
    for role in ["citizen", "field_worker", "ward_councillor", ""] {
        let mut session = database.person(TENANT, role);
        assert_eq!(session.sqlstate(&photo("gbv-evidence")), "42501", "{role}");
    }
    for claims in ["", "{}", r#"{"user_metadata": {"tenant_id": "t"}}"#, &claims("a/b", "admin")] {
        let error = database.authenticated(claims).error(&photo("evidence"));
        assert_eq!(error.code().code(), "42501", "{claims}");
        assert!(error.hint().expect("a hint").contains("municipality"), "{error:?}");
    }
    assert_eq!(database.authenticated("[]").sqlstate(&photo("evidence")), "28000");
}

#[test]
fn images_and_pdfs_up_to_their_limits_are_accepted() {
    let mut session = Database::guarded().person(TENANT, "citizen");
    let mebibyte = 1024 * 1024;
    for (content_type, limit) in [
        ("image/jpeg", 10 * mebibyte),
        ("image/png", 10 * mebibyte),
        ("image/webp", 10 * mebibyte),
        ("application/pdf", 5 * mebibyte),
    ] {
        session.text(&request("a", content_type, limit, "evidence"));
        session.text(&request("a", content_type, 1, "evidence"));
        for size in [limit + 1, i64::MAX] {
            let error = session.error(&request("a", content_type, size, "evidence"));
            assert_eq!(error.code().code(), "22023");
            assert!(error.message().contains(&limit.to_string()), "{error:?}");
        }
        for size in [0, -1] {
            assert_eq!(session.sqlstate(&request("a", content_type, size, "evidence")), "22023");
        }
    }
    for content_type in ["image/gif", "image/svg+xml", "text/html", "video/mp4", "", "jpeg"] {
        let error = session.error(&request("a", content_type, 1, "evidence"));
        assert_eq!(error.code().code(), "22023", "{content_type}");
        assert!(error.hint().expect("a hint").contains("application/pdf"), "{error:?}");
    }
}

#[test]
fn the_limits_are_settings() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session
        .run("LOAD 'pg_civic'; SET civic.image_max_size = '1kB'; SET civic.pdf_max_size = '2kB'");
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    for (content_type, limit, setting) in [
        ("image/png", 1024, "civic.image_max_size"),
        ("application/pdf", 2048, "civic.pdf_max_size"),
    ] {
        session.text(&request("a", content_type, limit, "evidence"));
        let error = session.error(&request("a", content_type, limit + 1, "evidence"));
        assert!(error.hint().expect("a hint").contains(setting), "{error:?}");
    }
}

#[test]
fn an_unknown_purpose_is_refused_with_a_list_of_purposes() {
    let mut session = Database::guarded().person(TENANT, "admin");
    for purpose in ["", "gbv", "Evidence", "evidence ", "avatars"] {
        let error = session.error(&photo(purpose));
        assert_eq!(error.code().code(), "22023", "{purpose}");
        assert!(error.hint().expect("a hint").contains("evidence, documents, gbv-evidence"));
    }
}

#[test]
fn a_hostile_filename_stays_in_its_folder() {
    let mut session = Database::guarded().person(TENANT, "citizen");
    for (filename, safe) in [
        ("../../other/x/photo.jpg", "photo.jpg"),
        ("..\\..\\photo.jpg", "photo.jpg"),
        (&format!("{OTHER_TENANT}/id/photo.jpg"), "photo.jpg"),
        ("a\nb'; DROP TABLE x; --.jpg", "a_b'; DROP TABLE x; --.jpg"),
        ("%2e%2e%2fphoto.jpg", "_2e_2e_2fphoto.jpg"),
        ("photo.jpg?download=1#x", "photo.jpg_download=1_x"),
    ] {
        let answer = json(&mut session, &request(filename, "image/jpeg", 1, "evidence"));
        let file_id = answer["file_id"].as_str().expect("a file id");
        assert_eq!(answer["path"], format!("{TENANT}/{file_id}/{safe}"), "{filename}");
    }
    for filename in ["", "..", "日本", "/"] {
        let state = session.sqlstate(&request(filename, "image/jpeg", 1, "evidence"));
        assert_eq!(state, "22023", "{filename}");
    }
}

#[test]
fn a_null_argument_is_an_error() {
    let mut session = Database::guarded().person(TENANT, "citizen");
    for arguments in [
        "NULL, 'image/png', 1, 'evidence'",
        "'a', NULL, 1, 'evidence'",
        "'a', 'image/png', NULL, 'evidence'",
        "'a', 'image/png', 1, NULL",
    ] {
        let state = session.sqlstate(&format!("SELECT civic.request_upload({arguments})"));
        assert_eq!(state, "22023", "{arguments}");
    }
}

#[test]
fn a_request_needs_neither_storage_nor_configuration() {
    let mut session = Database::plain().superuser();
    session.run(&format!(
        "SELECT set_config('request.jwt.claims', {}, false)",
        literal(&claims(TENANT, "citizen"))
    ));
    session.text(&photo("evidence"));
}
