//! civic.confirm_upload(): an upload is recorded once, with its real properties, and visible to no
//! one else.

use serde_json::{Value, json};

use super::{SUB, add_object, json};
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims};

const FILE: &str = "8f14e45f-0000-4000-8000-00000000000a";

fn confirm(purpose: &str) -> String {
    format!("SELECT civic.confirm_upload('{FILE}', '{purpose}')")
}

fn uploaded(bucket: &str) -> Database {
    let database = Database::guarded();
    add_object(&mut database.superuser(), bucket, &format!("{TENANT}/{FILE}/photo.jpg"), SUB);
    database
}

fn recorded(database: &Database) -> Vec<String> {
    database
        .superuser()
        .column("SELECT to_jsonb(m) FROM public.media_attachments m ORDER BY s3_key")
}

#[test]
fn an_upload_is_recorded_with_its_real_properties() {
    let database = uploaded("documents");
    let mut session = database.person(TENANT, "citizen");
    let answer = json(&mut session, &confirm("proof_of_residence"));
    let keys: Vec<_> = answer.as_object().expect("an object").keys().cloned().collect();
    let mut expected = [
        "id",
        "file_id",
        "filename",
        "content_type",
        "file_size",
        "purpose",
        "source",
        "created_at",
    ];
    expected.sort();
    let mut found = keys.clone();
    found.sort();
    assert_eq!(found, expected);
    let row: Value = serde_json::from_str(&recorded(&database)[0]).expect("JSON");
    for (column, value) in [
        ("id", answer["id"].clone()),
        ("created_at", answer["created_at"].clone()),
        ("file_id", json!(FILE)),
        ("s3_bucket", json!("documents")),
        ("s3_key", json!(format!("{TENANT}/{FILE}/photo.jpg"))),
        ("filename", json!("photo.jpg")),
        ("content_type", json!("image/jpeg")),
        ("file_size", json!(1234)),
        ("purpose", json!("proof_of_residence")),
        ("source", json!("web")),
        ("tenant_id", json!(TENANT)),
        ("is_processed", json!(false)),
        ("created_by", json!(SUB)),
        ("ticket_id", Value::Null),
    ] {
        assert_eq!(row[column], value, "{column}");
        if !answer[column].is_null() {
            assert_eq!(answer[column], value, "{column}");
        }
    }
}

#[test]
fn confirming_twice_gives_the_same_row() {
    let database = uploaded("evidence");
    let first = json(&mut database.person(TENANT, "citizen"), &confirm("evidence"));
    let mut session = database.person(TENANT, "citizen");
    for _ in 0..3 {
        assert_eq!(json(&mut session, &confirm("evidence")), first);
    }
    assert_eq!(recorded(&database).len(), 1);
}

#[test]
fn two_concurrent_confirmations_get_the_same_row() {
    let database = uploaded("evidence");
    let mut first = database.person(TENANT, "citizen");
    first.run("BEGIN");
    let row = json(&mut first, &confirm("evidence"));
    let mut second = database.person(TENANT, "citizen");
    let process = second.process();
    let waiting = std::thread::spawn(move || json(&mut second, &confirm("evidence")));
    crate::pg_tests::support::installation::wait_until_blocked(&database, &process);
    first.run("COMMIT");
    assert_eq!(waiting.join().expect("it ends"), row);
    assert_eq!(recorded(&database).len(), 1);
}

#[test]
fn a_rolled_back_confirmation_can_be_repeated() {
    let database = uploaded("gbv-evidence");
    let mut session = database.person(TENANT, "manager");
    for end in ["ROLLBACK", "COMMIT"] {
        session.run("BEGIN");
        session.text(&confirm("gbv-evidence"));
        session.run(end);
    }
    assert_eq!(recorded(&database).len(), 1);
}

#[test]
fn without_an_upload_nothing_is_confirmed() {
    let database = Database::guarded();
    let mut superuser = database.superuser();
    // Another folder with the same prefix, the folder itself, a file beside it.
    for name in [
        format!("{TENANT}/{FILE}0/photo.jpg"),
        format!("{TENANT}/{FILE}"),
        format!("{TENANT}/{FILE}.jpg"),
        format!("{TENANT}/x/{FILE}/photo.jpg"),
    ] {
        add_object(&mut superuser, "evidence", &name, SUB);
    }
    // A row of an upload that the API has not completed.
    superuser.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name, owner_id)
         VALUES ('evidence', '{TENANT}/{FILE}/unfinished.jpg', '{SUB}')"
    ));
    let error = database.person(TENANT, "citizen").error(&confirm("evidence"));
    assert_eq!(error.code().code(), "PT404");
    assert!(error.hint().expect("a hint").contains("request_upload()"), "{error:?}");
    assert!(recorded(&database).is_empty());
}

#[test]
fn a_deleted_file_is_not_confirmed() {
    let database = uploaded("evidence");
    let mut superuser = database.superuser();
    superuser.run(
        "ALTER TABLE storage.objects ADD archived_at timestamptz, ADD is_delete_marker boolean",
    );
    let mut session = database.person(TENANT, "citizen");
    for gone in ["archived_at = now()", "is_delete_marker = true"] {
        superuser.run(&format!("UPDATE storage.objects SET {gone}"));
        assert_eq!(session.sqlstate(&confirm("evidence")), "PT404", "{gone}");
        superuser.run("UPDATE storage.objects SET archived_at = NULL, is_delete_marker = false");
    }
    session.text(&confirm("evidence"));
}

/// Everything of an error that the caller sees.
fn seen(session: &mut Session, purpose: &str) -> String {
    let error = session.error(&confirm(purpose));
    format!("{} {} {:?} {:?}", error.code().code(), error.message(), error.detail(), error.hint())
}

#[test]
fn a_forbidden_upload_looks_like_a_missing_one() {
    let absent = seen(&mut Database::guarded().person(OTHER_TENANT, "admin"), "evidence");
    let database = uploaded("evidence");
    assert_eq!(seen(&mut database.person(OTHER_TENANT, "admin"), "evidence"), absent);
    assert_eq!(seen(&mut database.authenticated("{}"), "evidence"), absent, "without a tenant");
    database.person(TENANT, "citizen").text(&confirm("evidence"));
    assert_eq!(seen(&mut database.person(OTHER_TENANT, "admin"), "evidence"), absent);
    assert_eq!(seen(&mut database.person(TENANT, "citizen"), "documents"), absent, "other bucket");
    let gbv = uploaded("gbv-evidence");
    for role in ["citizen", "field_worker", ""] {
        assert_eq!(seen(&mut gbv.person(TENANT, role), "gbv-evidence"), absent, "{role}");
    }
}

#[test]
fn a_file_id_used_by_another_municipality_looks_missing_too() {
    let database = uploaded("evidence");
    database.person(TENANT, "citizen").text(&confirm("evidence"));
    let before = recorded(&database);
    let absent = seen(&mut Database::guarded().person(OTHER_TENANT, "citizen"), "evidence");
    add_object(
        &mut database.superuser(),
        "evidence",
        &format!("{OTHER_TENANT}/{FILE}/mine.jpg"),
        SUB,
    );
    let mut thief = database.authenticated(&claims(OTHER_TENANT, "citizen"));
    assert_eq!(seen(&mut thief, "evidence"), absent);
    assert_eq!(recorded(&database), before, "and nothing is overwritten");
}

#[test]
fn a_manager_confirms_a_gbv_upload_once_and_reads_nothing() {
    let database = uploaded("gbv-evidence");
    let mut session = database.person(TENANT, "manager");
    let count = "SELECT count(*) FROM storage.objects";
    assert_eq!(session.text(count), "0");
    let answer = json(&mut session, &confirm("gbv-evidence"));
    assert_eq!(answer["filename"], "photo.jpg");
    assert_eq!(session.text(count), "0");
    assert_eq!(session.sqlstate(&confirm("gbv-evidence")), "PT404");
    assert_eq!(recorded(&database).len(), 1);
    // A caller who may read it can still confirm it, and gets that row.
    let mut liaison = database.person(TENANT, "saps_liaison");
    assert_eq!(json(&mut liaison, &confirm("gbv-evidence")), answer);
}

#[test]
fn a_manager_does_not_confirm_another_users_upload() {
    let database = Database::guarded();
    let mut superuser = database.superuser();
    for (name, owner) in [
        (format!("{TENANT}/{FILE}/theirs.jpg"), "somebody-else"),
        (format!("{OTHER_TENANT}/{FILE}/mine-elsewhere.jpg"), SUB),
    ] {
        add_object(&mut superuser, "gbv-evidence", &name, owner);
    }
    superuser.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name, metadata)
         VALUES ('gbv-evidence', '{TENANT}/{FILE}/nobodys.jpg', '{{\"size\": 1}}')"
    ));
    let mut session = database.person(TENANT, "manager");
    assert_eq!(session.sqlstate(&confirm("gbv-evidence")), "PT404");
    // A caller without a user id in the claims does not match an uploader without one.
    let without_user =
        format!(r#"{{"app_metadata": {{"tenant_id": "{TENANT}", "role": "manager"}}}}"#);
    assert_eq!(database.authenticated(&without_user).sqlstate(&confirm("gbv-evidence")), "PT404");
    assert!(recorded(&database).is_empty());
}

#[test]
fn the_author_of_another_users_upload_cannot_be_changed() {
    let database = uploaded("evidence");
    let bob =
        |role: &str| claims(TENANT, role).replace(SUB, "b0b00000-0000-4000-8000-000000000000");
    let absent = seen(&mut Database::guarded().authenticated(&bob("citizen")), "evidence");
    for role in ["citizen", "manager", "saps_liaison", "admin"] {
        let mut session = database.authenticated(&bob(role));
        assert_eq!(session.text("SELECT count(*) FROM storage.objects"), "1", "{role} reads it");
        assert_eq!(seen(&mut session, "evidence"), absent, "{role}");
    }
    let without_user =
        format!(r#"{{"app_metadata": {{"tenant_id": "{TENANT}", "role": "admin"}}}}"#);
    assert_eq!(
        seen(&mut database.authenticated(&without_user), "evidence"),
        absent,
        "without a user"
    );
    assert!(recorded(&database).is_empty());
    database.person(TENANT, "citizen").text(&confirm("evidence"));
    assert_eq!(seen(&mut database.authenticated(&bob("admin")), "evidence"), absent, "recorded");
    let row: Value = serde_json::from_str(&recorded(&database)[0]).expect("JSON");
    assert_eq!(row["created_by"], SUB);
}

#[test]
fn a_file_stored_by_the_server_is_no_users_upload() {
    let database = Database::guarded();
    // As the worker stores WhatsApp media: the folder is the ticket's, and the file has no owner.
    let metadata = r#"'{"size": 1234, "mimetype": "image/jpeg"}'"#;
    for bucket in ["evidence", "gbv-evidence"] {
        database.superuser().run(&format!(
            "INSERT INTO storage.objects (bucket_id, name, metadata)
             VALUES ('{bucket}', '{TENANT}/{FILE}/whatsapp.jpg', {metadata})"
        ));
    }
    let without_user =
        format!(r#"{{"app_metadata": {{"tenant_id": "{TENANT}", "role": "admin"}}}}"#);
    for bucket in ["evidence", "gbv-evidence"] {
        for role in ["citizen", "manager", "admin"] {
            let state = database.person(TENANT, role).sqlstate(&confirm(bucket));
            assert_eq!(state, "PT404", "{bucket} {role}");
        }
        assert_eq!(
            database.authenticated(&without_user).sqlstate(&confirm(bucket)),
            "PT404",
            "{bucket}"
        );
    }
    assert!(recorded(&database).is_empty());
}

#[test]
fn older_storage_versions_name_the_uploader_in_another_column() {
    let database = uploaded("evidence");
    let mut superuser = database.superuser();
    let mut session = database.person(TENANT, "citizen");
    let other_user = "b0b00000-0000-4000-8000-000000000000";
    // If both are set, the newer column counts.
    for (owner_id, owner, state) in [(other_user, SUB, Some("PT404")), (SUB, other_user, None)] {
        superuser
            .run(&format!("UPDATE storage.objects SET owner_id = '{owner_id}', owner = '{owner}'"));
        session.run("BEGIN");
        match state {
            Some(state) => assert_eq!(session.sqlstate(&confirm("evidence")), state),
            None => drop(session.text(&confirm("evidence"))),
        }
        session.run("ROLLBACK");
    }
    superuser.run("ALTER TABLE storage.objects DROP owner_id");
    assert_eq!(session.sqlstate(&confirm("evidence")), "PT404");
    superuser.run(&format!("UPDATE storage.objects SET owner = '{SUB}'"));
    session.text(&confirm("evidence"));
}

#[test]
fn a_file_in_the_folder_of_another_users_upload_does_not_take_its_id() {
    const SOMEBODY: &str = "b0b00000-0000-4000-8000-000000000000";
    for (bucket, role) in [("evidence", "citizen"), ("gbv-evidence", "manager")] {
        let database = uploaded(bucket);
        let mut superuser = database.superuser();
        let thief = claims(TENANT, "admin").replace(SUB, SOMEBODY);
        for other in ["evidence", "documents", "gbv-evidence"] {
            add_object(&mut superuser, other, &format!("{TENANT}/{FILE}/a.jpg"), SOMEBODY);
            let state = database.authenticated(&thief).sqlstate(&confirm(other));
            assert_eq!(state, "PT404", "{other} beside {bucket}");
        }
        assert!(recorded(&database).is_empty());
        let answer = json(&mut database.person(TENANT, role), &confirm(bucket));
        assert_eq!(answer["filename"], "photo.jpg", "{bucket}");
    }
}

#[test]
fn only_users_who_are_logged_in_can_confirm() {
    let database = uploaded("evidence");
    let forger = database.role("forger", "");
    for role in ["anon", &forger] {
        let mut session = database.superuser();
        session.run(&format!("GRANT USAGE ON SCHEMA storage TO {role}"));
        session.acts_as(role, &claims(TENANT, "manager"));
        assert_eq!(session.sqlstate(&confirm("evidence")), "42501", "{role}");
    }
}

#[test]
fn a_users_claims_still_apply_in_a_role_that_bypasses_row_security() {
    let database = uploaded("gbv-evidence");
    let mut session = database.superuser();
    session.acts_as(&session_user(&database), &claims(TENANT, "citizen"));
    assert_eq!(session.sqlstate(&confirm("gbv-evidence")), "PT404");
    assert!(recorded(&database).is_empty());
}

fn session_user(database: &Database) -> String {
    database.superuser().text("SELECT quote_ident(session_user)")
}

#[test]
fn a_null_argument_is_an_error() {
    let mut session = Database::guarded().person(TENANT, "citizen");
    for arguments in ["NULL, 'evidence'", "gen_random_uuid(), NULL"] {
        let state = session.sqlstate(&format!("SELECT civic.confirm_upload({arguments})"));
        assert_eq!(state, "22023", "{arguments}");
    }
    assert_eq!(session.sqlstate("SELECT civic.confirm_upload('x', 'evidence')"), "22P02");
    assert_eq!(session.sqlstate(&confirm("gbv")), "22023");
}

#[test]
fn the_object_is_found_by_an_index_range() {
    let database = uploaded("evidence");
    let mut superuser = database.superuser();
    superuser.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name)
         SELECT 'evidence', '{TENANT}/' || gen_random_uuid() || '/a.jpg'
         FROM generate_series(1, 20000);
         ANALYZE storage.objects"
    ));
    let mut session = database.superuser();
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    session.run("SET enable_seqscan = on");
    let read = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables
                WHERE relname = 'objects'";
    session.run("BEGIN");
    session.text(&confirm("evidence"));
    session.run("RESET ROLE");
    let rows: i64 = session.text(read).parse().expect("a number");
    session.run("COMMIT");
    assert!(rows < 100, "{rows} rows were looked at");
}
