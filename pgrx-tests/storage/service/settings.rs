//! A missing setting is reported, and a present one is reported without its value.

use super::uploads::SERVER_SIDE;
use super::{SUB, Town, add_object};
use crate::pg_tests::support::{Database, Session, TENANT, literal};

fn link() -> String {
    format!("SELECT civic.get_signed_url('evidence', '{TENANT}/f/a.jpg')")
}

#[track_caller]
fn not_configured(session: &mut Session, sql: &str) -> String {
    let error = session.error(sql);
    assert_eq!(error.code().code(), "55000", "{sql}");
    assert_eq!(error.message(), "storage service is not configured", "{sql}");
    error.hint().expect("a hint").to_owned()
}

#[test]
fn a_missing_setting_is_named_and_the_rest_works() {
    let database = Database::guarded();
    let mut session = database.superuser();
    for sql in SERVER_SIDE.into_iter().chain([link().as_str()]) {
        let hint = not_configured(&mut session, sql);
        assert!(
            hint.contains("civic.supabase_url") && hint.contains("civic.service_key"),
            "{hint}"
        );
    }
    add_object(&mut session, "evidence", &format!("{TENANT}/{SUB}/a.jpg"), SUB);
    let mut person = database.person(TENANT, "citizen");
    person.text("SELECT civic.request_upload('a.jpg', 'image/jpeg', 1, 'evidence')");
    person.text(&format!("SELECT civic.confirm_upload('{SUB}', 'evidence')"));
    session.run(&format!("INSERT INTO tickets (tenant_id) VALUES ('{TENANT}')"));
}

#[test]
fn each_function_names_the_settings_that_it_lacks() {
    let town = Town::new();
    add_object(&mut town.superuser(), "evidence", &format!("{TENANT}/f/a.jpg"), SUB);
    let [upload, download] = SERVER_SIDE;
    for (taken_away, sql, says) in [
        ("civic.service_key", upload, "Set civic.service_key in"),
        ("civic.storage_url", upload, "Set civic.supabase_url in"),
        ("civic.storage_url", &link(), "Set civic.supabase_url in"),
        ("civic.twilio_account_sid", download, "Set civic.twilio_account_sid in"),
        ("civic.twilio_auth_token", download, "Set civic.twilio_auth_token in"),
    ] {
        let value = town
            .cluster
            .superuser()
            .text(&format!("SELECT setting FROM pg_file_settings WHERE name = '{taken_away}'"));
        town.configure(&[(taken_away, "")]);
        let hint = not_configured(&mut town.service_role(), sql);
        assert!(hint.starts_with(says), "{sql}: {hint}");
        town.configure(&[(taken_away, &value)]);
    }
    // Links need one of the two.
    town.configure(&[("civic.service_key", "")]);
    town.service_role().text(&link());
    town.configure(&[("civic.jwt_secret", "")]);
    let hint = not_configured(&mut town.service_role(), &link());
    assert!(hint.contains("civic.jwt_secret"), "{hint}");
}

#[test]
fn the_storage_api_is_under_the_projects_url_or_at_its_own() {
    let town = Town::new();
    town.configure(&[
        ("civic.storage_url", ""),
        ("civic.supabase_url", &format!("{}/", town.storage.project_url())),
    ]);
    town.service_role().text(SERVER_SIDE[0]);
    assert_eq!(town.storage.server().requests()[0].path(), "/storage/v1/object/evidence/t/f/a");
}

#[test]
fn an_invalid_url_is_reported() {
    let town = Town::new();
    for url in ["not a url", "ftp://x", "https://user:secret-word@x/"] {
        town.configure(&[("civic.storage_url", url)]);
        let error = town.service_role().error(SERVER_SIDE[0]);
        assert_eq!(error.code().code(), "22023", "{url}: {error:?}");
        assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");
    }
}

/// The rows of check() about the service.
fn checked(town: &Town) -> Vec<String> {
    town.superuser().column(
        "SELECT concat_ws(' | ', component, ok, detail) FROM civic.check()
         WHERE component IN ('storage service', 'WhatsApp media', 'secrets of the storage service')",
    )
}

#[test]
fn check_shows_that_a_setting_is_set_and_never_its_value() {
    let town = Town::new();
    assert_eq!(
        checked(&town),
        [
            "storage service | t | set: civic.storage_url or civic.supabase_url, \
             civic.service_key, civic.jwt_secret",
            "WhatsApp media | t | set: civic.twilio_account_sid, civic.twilio_auth_token",
            "secrets of the storage service | t | hidden",
        ]
    );
    town.configure(&[("civic.service_key", ""), ("civic.twilio_auth_token", "")]);
    assert_eq!(
        checked(&town)[..2],
        [
            "storage service | t | set: civic.storage_url or civic.supabase_url, \
             civic.jwt_secret (links alone)",
            "WhatsApp media | f | set: civic.twilio_account_sid; not set: civic.twilio_auth_token",
        ]
    );
    town.configure(&[("civic.storage_url", "")]);
    assert!(checked(&town)[0].starts_with("storage service | f | "));
}

/// The row of check() about a component, `None` if there is none.
fn row(town: &Town, component: &str) -> Option<(bool, String)> {
    let rows = town.superuser().rows(&format!(
        "SELECT ok, detail FROM civic.check() WHERE component = {}",
        literal(component)
    ));
    let text = |value: &Option<String>| value.clone().expect("not NULL");
    rows.first().map(|row| (text(&row[0]) == "t", text(&row[1])))
}

#[test]
fn check_finds_a_key_that_only_the_gateway_takes_beside_the_apis_own_url() {
    let town = Town::new();
    assert_eq!(row(&town, "civic.service_key"), None, "a JWT is right in both places");
    town.configure(&[("civic.service_key", "sb_secret_nobody-sees")]);
    for (url, is_ok) in [
        ("http://storage:5000", false),
        ("http://storage:5000/", false),
        ("https://p.supabase.co/storage/v1", true),
        ("https://p.supabase.co/storage/v1/", true),
    ] {
        town.configure(&[("civic.storage_url", url)]);
        let (ok, detail) = row(&town, "civic.service_key").expect("a row");
        assert_eq!(ok, is_ok, "{url}: {detail}");
        assert!(!detail.contains("sb_secret"), "{detail}");
        assert!(is_ok || detail.contains("civic.supabase_url"), "{detail}");
    }
    let project = [("civic.storage_url", ""), ("civic.supabase_url", "https://p.supabase.co")];
    town.configure(&project);
    assert!(row(&town, "civic.service_key").expect("a row").0);
}

#[test]
fn check_says_what_the_api_needs_to_serve_our_links() {
    let town = Town::new();
    let (ok, detail) = row(&town, "links to files").expect("a row");
    assert!(ok && detail.contains("HS256") && detail.contains("AUTH_JWT_ALGORITHM"), "{detail}");
    town.configure(&[("civic.jwt_secret", "")]);
    assert_eq!(row(&town, "links to files"), None, "the API makes them");
}

#[test]
fn a_missing_grant_and_a_table_without_a_key_are_found_and_repaired() {
    let database = Database::guarded();
    let mut session = database.superuser();
    for (tampered, component) in [
        (
            "REVOKE EXECUTE ON FUNCTION civic.upload_file(text, text, bytea, text) FROM service_role",
            "privileges of service_role",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION civic.confirm_upload(text, text, text) FROM authenticated",
            "privileges of authenticated",
        ),
        ("REVOKE SELECT ON civic.media_jobs FROM service_role", "privileges of service_role"),
        (
            "REVOKE SELECT (state) ON civic.media_jobs FROM authenticated",
            "privileges of authenticated",
        ),
        ("DROP POLICY \"civic read\" ON civic.media_jobs", "privileges of authenticated"),
        (
            "ALTER POLICY \"civic read\" ON civic.media_jobs TO PUBLIC",
            "privileges of authenticated",
        ),
        (
            "ALTER TABLE public.media_attachments DROP CONSTRAINT media_attachments_file_id_key",
            "civic.media_table",
        ),
    ] {
        session.run(tampered);
        let wrong = session.wrong();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert_eq!(wrong[0].0, component);
        session.run(wrong[0].2.as_deref().expect("a fix"));
        assert_eq!(session.wrong(), [], "{tampered}");
    }
    session.run("DROP TABLE public.media_attachments");
    let row = "SELECT detail FROM civic.check() WHERE component = 'civic.media_table' AND ok";
    assert!(session.text(row).contains("confirm_upload() has nowhere to record"));
}
