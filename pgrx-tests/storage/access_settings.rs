//! The settings that decide identity and rights: changes apply at once, and no role can forge them.

use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims, literal};

fn set(session: &mut Session, claims: &str) {
    session.run(&format!("SELECT set_config('request.jwt.claims', {}, false)", literal(claims)));
}

fn tenant(session: &mut Session) -> String {
    session.value("SELECT civic.tenant_id()").unwrap_or("no tenant".to_owned())
}

#[test]
fn changed_claims_apply_at_the_next_call() {
    let mut session = Database::plain().superuser();
    let set = |scope: &str, tenant_id: &str| {
        format!("SET {scope} request.jwt.claims = {}", literal(&claims(tenant_id, "citizen")))
    };
    session.run(&set("", TENANT));
    session.run(&format!("BEGIN; {}", set("LOCAL", OTHER_TENANT)));
    assert_eq!(tenant(&mut session), OTHER_TENANT);
    session.run(&format!("SAVEPOINT s; {}", set("LOCAL", "third")));
    assert_eq!(tenant(&mut session), "third");
    session.run("ROLLBACK TO s");
    assert_eq!(tenant(&mut session), OTHER_TENANT);
    session.run("COMMIT");
    assert_eq!(tenant(&mut session), TENANT);
    for reset in ["RESET request.jwt.claims", "RESET ALL", "DISCARD ALL"] {
        session.run(&set("", TENANT));
        assert_eq!(tenant(&mut session), TENANT);
        session.run(reset);
        assert_eq!(tenant(&mut session), "no tenant", "after {reset}");
    }
}

#[test]
fn claims_of_the_same_length_at_the_same_address_are_distinguished() {
    let mut session = Database::plain().superuser();
    for tenant_id in ["a", "b", "a", "c", "b"] {
        set(&mut session, &claims(tenant_id, "citizen"));
        assert_eq!(tenant(&mut session), tenant_id);
    }
}

#[test]
fn another_path_or_setting_of_the_claims_applies_at_once() {
    let mut session = Database::plain().superuser();
    set(
        &mut session,
        r#"{"t": "top", "app_metadata": {"tenant_id": "t", "role": "r"},
                          "a": {"b": {"c": "deep"}}}"#,
    );
    session.run("SELECT set_config('my.claims', '{\"t\": \"mine\"}', false)");
    assert_eq!(tenant(&mut session), "t");
    for (path, found) in [
        ("t", "top"),
        ("a.b.c", "deep"),
        (" a . b . c ", "deep"),
        ("a.b", "no tenant"),
        ("a.b.c.d", "no tenant"),
        ("", "no tenant"),
        (".", "no tenant"),
        ("absent", "no tenant"),
    ] {
        session.run(&format!("SET civic.tenant_claim = '{path}'"));
        assert_eq!(tenant(&mut session), found, "{path:?}");
    }
    session.run("RESET civic.tenant_claim");
    assert_eq!(tenant(&mut session), "t");

    session.run("SET civic.role_claim = 'a.b.c'");
    assert_eq!(session.text("SELECT civic.user_role()"), "deep");
    session.run("RESET ALL; SET civic.tenant_claim = 't'");
    session.run("SELECT set_config('my.claims', '{\"t\": \"mine\"}', false)");
    for setting in ["my.claims", "MY.Claims"] {
        session.run(&format!("SET civic.claims_setting = '{setting}'"));
        assert_eq!(tenant(&mut session), "mine", "{setting}");
    }
    for setting in ["", "no.such", "not a name", "my.", "🦀"] {
        session.run(&format!("SET civic.claims_setting = '{setting}'"));
        assert_eq!(tenant(&mut session), "no tenant", "{setting:?}");
    }
    session.run("SET civic.claims_setting = 'work_mem'");
    let error = session.error("SELECT civic.tenant_id()");
    assert_eq!(error.code().code(), "28000");
    assert!(error.message().contains("work_mem"), "{error:?}");
}

#[test]
fn a_setting_reverts_with_its_transaction_and_its_savepoint() {
    let mut session = Database::plain().superuser();
    set(&mut session, r#"{"a": "1", "b": "2", "app_metadata": {"tenant_id": "t"}}"#);
    session.run("BEGIN; SET civic.tenant_claim = 'a'");
    assert_eq!(tenant(&mut session), "1");
    session.run("SAVEPOINT s; SET LOCAL civic.tenant_claim = 'b'");
    assert_eq!(tenant(&mut session), "2");
    session.run("ROLLBACK TO s");
    assert_eq!(tenant(&mut session), "1");
    session.run("ROLLBACK");
    assert_eq!(tenant(&mut session), "t");
    // A function's own SET ends with the function.
    session.run(
        "CREATE FUNCTION pg_temp.asks() RETURNS text LANGUAGE sql SET civic.tenant_claim = 'a'
         AS 'SELECT civic.tenant_id()'",
    );
    let asked = session.rows("SELECT pg_temp.asks(), civic.tenant_id()");
    assert_eq!(asked[0], [Some("1".to_owned()), Some("t".to_owned())]);
}

/// Whether the session reads and uploads GBV evidence.
fn opens(session: &mut Session) -> (bool, bool) {
    let answer = session.rows(&format!(
        "SELECT civic.can_read_object('gbv-evidence', n), civic.can_upload_object('gbv-evidence', n)
         FROM (VALUES ('{TENANT}/id/a')) AS object (n)"
    ));
    let is_true = |column: usize| answer[0][column].as_deref() == Some("t");
    (is_true(0), is_true(1))
}

#[test]
fn changed_lists_of_roles_apply_at_once() {
    let mut session = Database::plain().superuser();
    set(&mut session, &claims(TENANT, "manager"));
    assert_eq!(opens(&mut session), (false, true));
    for (readers, reads) in [
        ("manager", true),
        ("admin, MANAGER", true),
        (" ,Manager,, ", true),
        ("", false),
        (",", false),
        ("managers", false),
        ("admin manager", false),
        ("*", false),
    ] {
        session.run(&format!("SET civic.sensitive_readers = '{readers}'"));
        assert_eq!(opens(&mut session), (reads, true), "{readers:?}");
    }
    session.run("RESET civic.sensitive_readers; SET civic.sensitive_uploaders = 'citizen'");
    assert_eq!(opens(&mut session), (false, false));
    session.run("BEGIN; SET LOCAL civic.sensitive_readers = 'manager'");
    assert_eq!(opens(&mut session), (true, false));
    session.run("ROLLBACK");
    assert_eq!(opens(&mut session), (false, false));
}

#[test]
fn a_superusers_setting_for_the_database_applies_in_the_next_session() {
    let database = Database::guarded();
    let mut superuser = database.superuser();
    superuser.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('gbv-evidence', '{TENANT}/id/a');
         ALTER DATABASE {} SET civic.sensitive_readers = 'field_worker'",
        database.name()
    ));
    for (role, count) in [("field_worker", "1"), ("admin", "0")] {
        let mut session = database.person(TENANT, role);
        assert_eq!(session.text("SELECT count(*) FROM storage.objects"), count, "{role}");
    }
}

/// Settings that an attacker would set to gain access.
const FORGERIES: [(&str, &str); 7] = [
    ("civic.sensitive_readers", "citizen"),
    ("civic.sensitive_uploaders", "citizen"),
    ("civic.tenant_claim", "user_metadata.tenant_id"),
    ("civic.role_claim", "user_metadata.role"),
    ("civic.claims_setting", "my.claims"),
    ("civic.event_listeners", "citizen"),
    ("civic.event_transport", "none"),
];

/// The claims of a citizen who controls their user metadata.
fn forged_claims() -> String {
    serde_json::json!({
        "app_metadata": {"tenant_id": TENANT, "role": "citizen"},
        "user_metadata": {"tenant_id": OTHER_TENANT, "role": "admin"},
    })
    .to_string()
}

/// A database with an object in each folder of each bucket, and a role that can log in.
fn with_login(role: &str) -> Database {
    let database = Database::guarded();
    database.superuser().run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT authenticated TO {role};
         GRANT CREATE ON SCHEMA public TO {role};
         INSERT INTO storage.objects (bucket_id, name)
         SELECT id, tenant || '/id/a' FROM storage.buckets,
                unnest(ARRAY['{TENANT}', '{OTHER_TENANT}']) AS tenant"
    ));
    database
}

/// Asserts that a citizen sees their own folder of two buckets and uploads only where allowed.
#[track_caller]
fn assert_held(session: &mut Session, case: &str) {
    session.acts_as("authenticated", &forged_claims());
    session.run(&format!(
        "SELECT set_config('my.claims', {}, false)",
        literal(&claims(OTHER_TENANT, "admin"))
    ));
    let seen = session.column("SELECT bucket_id || ' ' || name FROM storage.objects ORDER BY 1");
    let own = |bucket: &str| format!("{bucket} {TENANT}/id/a");
    assert_eq!(seen, [own("documents"), own("evidence")], "{case}");
    assert_eq!(opens(session), (false, false), "{case}");
    assert_eq!(session.text("SELECT civic.tenant_id()"), TENANT, "{case}");
    let joins = format!("SELECT civic.can_join_channel('ticket_updates:{TENANT}')");
    assert_eq!(session.text(&joins), "f", "{case}");
}

#[test]
fn only_a_superuser_can_set_them_once_the_library_is_loaded() {
    let database = with_login("forger_after_load");
    let mut session = database.login("forger_after_load", "");
    session.acts_as("authenticated", &forged_claims());
    session.run("SELECT civic.tenant_id()");
    for (setting, value) in FORGERIES {
        for statement in [
            format!("SET {setting} = '{value}'"),
            format!("SET LOCAL {setting} = '{value}'"),
            format!("SELECT set_config('{setting}', '{value}', false)"),
            format!("RESET ROLE; SET {setting} = '{value}'"),
            format!("ALTER ROLE forger_after_load SET {setting} = '{value}'"),
        ] {
            assert_eq!(session.sqlstate(&statement), "42501", "{statement}");
        }
    }
    assert_held(&mut session, "after every attempt");
    // A misspelled name is reported and not kept.
    assert_eq!(session.sqlstate("SET civic.sensitive_reader = 'citizen'"), "42602");
}

#[test]
fn values_set_before_the_library_was_loaded_do_not_count() {
    let database = with_login("forger_before_load");
    for (setting, value) in FORGERIES {
        for scope in ["SET", "SET SESSION"] {
            let mut session = database.login("forger_before_load", "");
            session.run(&format!("{scope} {setting} = '{value}'"));
            session.run("SELECT civic.tenant_id()");
            let warnings = session.warnings();
            assert!(warnings.iter().any(|warning| warning.message().contains(setting)));
            assert_held(&mut session, &format!("{scope} {setting}"));
        }
        let mut session = database.login("forger_before_load", "");
        session.run(&format!("SET ROLE authenticated; SET {setting} = '{value}'"));
        assert_held(&mut session, &format!("SET {setting} as authenticated"));

        let mut session = database.login("forger_before_load", "");
        session.run(&format!("BEGIN; SET LOCAL {setting} = '{value}'; SAVEPOINT s"));
        assert_held(&mut session, &format!("SET LOCAL {setting}"));
        session.run("ROLLBACK TO s; COMMIT");
        assert_held(&mut session, &format!("SET LOCAL {setting}, and after"));
    }
}

#[test]
fn options_of_the_startup_packet_do_not_count() {
    let database = with_login("forger_at_start");
    for (setting, value) in FORGERIES {
        let mut session = database.login("forger_at_start", &format!("-c {setting}={value}"));
        assert_held(&mut session, setting);
        for reset in ["RESET ALL", "DISCARD ALL"] {
            session.reset_role();
            session.run(reset);
            assert_held(&mut session, &format!("{setting}, after {reset}"));
        }
    }
}

#[test]
fn a_role_cannot_set_them_for_its_next_session() {
    let database = with_login("forger_of_itself");
    for (setting, value) in FORGERIES {
        // The library is not loaded here, so only the server itself can refuse.
        let mut session = database.login("forger_of_itself", "");
        let statement = format!("ALTER ROLE forger_of_itself SET {setting} = '{value}'");
        let _ = session.client().batch_execute(&statement);
        let mut session = database.login("forger_of_itself", "");
        assert_held(&mut session, &statement);
    }
}

#[test]
fn a_function_cannot_carry_a_forged_setting() {
    let database = with_login("forger_by_function");
    for (number, (setting, value)) in FORGERIES.into_iter().enumerate() {
        let mut session = database.login("forger_by_function", "");
        let create = format!(
            "CREATE FUNCTION public.asks_{number}() RETURNS text LANGUAGE plpgsql
             SET {setting} = '{value}'
             AS $$ BEGIN RETURN civic.tenant_id() || (SELECT count(*) FROM storage.objects); END $$"
        );
        let is_made = session.client().batch_execute(&create).is_ok();
        for _ in 0..2 {
            session.acts_as("authenticated", &forged_claims());
            if is_made {
                let call = format!("SELECT public.asks_{number}()");
                match session.client().simple_query(&call) {
                    Ok(_) => assert_eq!(session.text(&call), format!("{TENANT}2"), "{setting}"),
                    Err(error) => assert_eq!(error.code().unwrap().code(), "42501", "{setting}"),
                }
            }
            assert_held(&mut session, &format!("after a function with {setting}"));
        }
    }
}
