//! What a browser gets for each error of the functions that it calls through PostgREST.

use std::collections::BTreeSet;

use civic_fake_services::{Answer, FakeServer};
use serde_json::json;

use super::{SUB, Town, add_object};
use crate::pg_tests::support::postgrest::status;
use crate::pg_tests::support::{Database, Session, TENANT, claims, literal};

const DOCUMENT: &str = include_str!("../../../docs/sql-api.md");

/// The rows of the document's table: function, SQLSTATE, status.
fn documented() -> BTreeSet<(String, String, u16)> {
    let (_, rest) = DOCUMENT.split_once("| function | SQLSTATE | HTTP | when |").expect("a table");
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells =
            row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`'));
        let mut cell = || cells.next().expect("a cell").to_owned();
        let (function, sqlstate, http) = (cell(), cell(), cell());
        let http = http.split(',').next().and_then(|http| http.trim().parse().ok());
        (function, sqlstate, http.unwrap_or_else(|| panic!("a status: {row}")))
    })
    .collect()
}

/// Asserts that an error is a row of the document.
#[track_caller]
fn is_documented(session: &mut Session, sql: &str, sqlstate: &str) {
    let error = session.error(sql);
    assert_eq!(error.code().code(), sqlstate, "{sql}: {error:?}");
    // PostgREST puts the message of a PT code into the status line.
    assert!(!error.message().chars().any(char::is_control), "{error:?}");
    let function = sql.split("civic.").nth(1).and_then(|rest| rest.split('(').next());
    let row = (function.expect("a function").to_owned(), sqlstate.to_owned(), status(sqlstate));
    assert!(documented().contains(&row), "docs/sql-api.md lacks {row:?}");
}

#[test]
fn the_documented_status_is_postgrests() {
    let rows = documented();
    assert!(rows.len() > 15, "{rows:?}");
    for (function, sqlstate, http) in rows {
        assert_eq!(status(&sqlstate), http, "{function} {sqlstate}");
    }
}

fn request(filename: &str, content_type: &str, size: &str, purpose: &str) -> String {
    format!(
        "SELECT civic.request_upload({}, {}, {size}, {})",
        literal(filename),
        literal(content_type),
        literal(purpose)
    )
}

#[test]
fn each_error_of_request_upload_has_its_status() {
    let database = Database::guarded();
    let mut person = database.person(TENANT, "citizen");
    for sql in [
        request("a", "text/html", "1", "evidence"),
        request("a", "image/png", "0", "evidence"),
        request("a", "image/png", "1000000000", "evidence"),
        request("a", "image/png", "NULL", "evidence"),
        request("", "image/png", "1", "evidence"),
        request("..", "image/png", "1", "evidence"),
        request("a", "image/png", "1", "avatars"),
    ] {
        is_documented(&mut person, &sql, "22023");
    }
    is_documented(&mut person, &request("a", "image/png", "1", "gbv-evidence"), "42501");
    is_documented(&mut person, &request(&"x".repeat(1025), "image/png", "1", "evidence"), "PT400");
    is_documented(&mut person, &request("a", &"x".repeat(256), "1", "evidence"), "PT400");
    is_documented(&mut person, &request("a", "image/png", "1", &"x".repeat(1025)), "PT400");
    let photo = request("a", "image/png", "1", "evidence");
    is_documented(&mut database.authenticated("[]"), &photo, "28000");
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(1024 * 1024));
    is_documented(&mut database.authenticated(&long), &photo, "54000");
}

#[test]
fn each_error_of_confirm_upload_has_its_status() {
    let database = Database::guarded();
    let confirm =
        |id: &str, purpose: &str| format!("SELECT civic.confirm_upload('{id}', '{purpose}')");
    let mut superuser = database.superuser();
    add_object(&mut superuser, "evidence", &format!("{TENANT}/{SUB}/a.jpg"), SUB);
    let mut person = database.person(TENANT, "citizen");
    is_documented(&mut person, &confirm(SUB, "avatars"), "22023");
    is_documented(&mut person, "SELECT civic.confirm_upload(NULL, 'evidence')", "22023");
    is_documented(&mut person, &confirm("not-a-uuid", "evidence"), "22P02");
    is_documented(&mut person, &confirm(&"1".repeat(1025), "evidence"), "PT400");
    is_documented(
        &mut person,
        &confirm("8f14e45f-0000-4000-8000-0000000000ff", "evidence"),
        "PT404",
    );
    is_documented(&mut person, &confirm(SUB, "gbv-evidence"), "PT404");
    is_documented(&mut database.authenticated("[]"), &confirm(SUB, "evidence"), "28000");
    let mut anonymous = database.superuser();
    anonymous.acts_as("anon", &claims(TENANT, "citizen"));
    is_documented(&mut anonymous, &confirm(SUB, "evidence"), "42501");
    for (broken, sqlstate) in [
        ("ALTER TABLE media_attachments RENAME COLUMN s3_key TO another", "PT500"),
        ("DROP TABLE media_attachments", "PT500"),
    ] {
        superuser.run(broken);
        is_documented(&mut person, &confirm(SUB, "evidence"), sqlstate);
    }
}

#[test]
fn a_conflict_in_the_table_of_attachments_is_409() {
    let database = Database::guarded();
    let mut superuser = database.superuser();
    superuser.run(
        "ALTER TABLE media_attachments ADD UNIQUE (tenant_id);
         INSERT INTO media_attachments (id, tenant_id)
         VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000001')",
    );
    add_object(&mut superuser, "evidence", &format!("{TENANT}/{SUB}/a.jpg"), SUB);
    let confirm = format!("SELECT civic.confirm_upload('{SUB}', 'evidence')");
    is_documented(&mut database.person(TENANT, "citizen"), &confirm, "23505");
}

#[test]
fn each_error_of_get_signed_url_has_its_status() {
    let town = Town::new();
    let path = format!("{TENANT}/f/a.jpg");
    add_object(&mut town.superuser(), "evidence", &path, SUB);
    let mut person = town.person("citizen");
    let link = |path: &str, expiry: &str| {
        format!("SELECT civic.get_signed_url('evidence', {}, {expiry})", literal(path))
    };
    let ours = link(&path, "60");
    for (sql, sqlstate) in [
        (link(&path, "0"), "22023"),
        (link(&path, "NULL"), "22023"),
        ("SELECT civic.get_signed_url('a/b', 'c')".to_owned(), "22023"),
        (link(&"x".repeat(1025), "60"), "PT400"),
        (link("t/f/absent.jpg", "60"), "PT404"),
        (link("t/f/a\r\nset-cookie: x", "60"), "PT404"),
    ] {
        is_documented(&mut person, &sql, sqlstate);
    }
    is_documented(&mut town.acting_as("authenticated", "[]"), &ours, "28000");
    is_documented(&mut town.acting_as("anon", "{}"), &ours, "42501");

    // The API makes the link.
    town.configure(&[("civic.jwt_secret", "")]);
    is_documented(&mut person, &ours, "PT404");
    let refused =
        |code: &str| Answer::json(400, &json!({"statusCode": code, "error": "e", "message": "m"}));
    for (answer, sqlstate) in [
        (refused("403"), "PT500"),
        (refused("409"), "PT409"),
        (refused("500"), "58000"),
        (Answer::new(429), "53000"),
        (Answer::new(200).body("<html>"), "08P01"),
        (Answer::hang_up(), "08006"),
    ] {
        town.storage.fails_first([answer]);
        is_documented(&mut person, &ours, sqlstate);
    }
    let gone = FakeServer::start(|_| Answer::new(200));
    let url = gone.url("");
    drop(gone);
    for (url, sqlstate) in [(url.as_str(), "08001"), ("ftp://x", "PT500"), ("", "55000")] {
        town.configure(&[("civic.storage_url", url)]);
        is_documented(&mut person, &ours, sqlstate);
    }
}

#[test]
fn an_error_for_a_browser_keeps_its_message_and_its_hint() {
    let database = Database::guarded();
    let error = database
        .person(TENANT, "citizen")
        .error("SELECT civic.confirm_upload('8f14e45f-0000-4000-8000-0000000000ff', 'evidence')");
    assert_eq!(
        error.message(),
        "there is no upload \"8f14e45f-0000-4000-8000-0000000000ff\" to confirm"
    );
    assert!(
        error.hint().expect("a hint").starts_with("Upload the file to the bucket"),
        "{error:?}"
    );
    assert_eq!(error.severity(), "ERROR");
}

#[test]
fn an_error_that_was_caught_is_not_raised_by_the_next_call() {
    let database = Database::guarded();
    let mut superuser = database.superuser();
    add_object(&mut superuser, "evidence", &format!("{TENANT}/{SUB}/a.jpg"), SUB);
    superuser.run(
        "CREATE FUNCTION public.tried(id text) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM civic.confirm_upload(id, 'evidence');
             RETURN 'confirmed';
         EXCEPTION WHEN OTHERS THEN
             RETURN SQLSTATE;
         END $$",
    );
    let mut person = database.person(TENANT, "citizen");
    for _ in 0..3 {
        assert_eq!(
            person.text("SELECT public.tried('8f14e45f-0000-4000-8000-0000000000ff')"),
            "PT404"
        );
        assert_eq!(person.text(&format!("SELECT public.tried('{SUB}')")), "confirmed");
    }
    // An error of a statement that calls it for each row ends the statement only.
    let each = "SELECT civic.confirm_upload(id::text, 'evidence') FROM (VALUES
                ('8f14e45f-0000-4000-8000-0000000000fe'::uuid), ('8f14e45f-0000-4000-8000-0000000000ff')) v (id)";
    assert_eq!(person.sqlstate(each), "PT404");
    person.text(&format!("SELECT civic.confirm_upload('{SUB}', 'evidence')"));
}
