//! Rights that no policy covers: TRUNCATE, TRIGGER, REFERENCES, MAINTAIN, and locks.

use crate::pg_tests::support::installation::{SETUP, TEARDOWN, action_of};
use crate::pg_tests::support::{Database, OTHER_TENANT, REALTIME, Session};

const PERSONS: [&str; 2] = ["anon", "authenticated"];

#[test]
fn nobody_truncates_the_objects_or_the_buckets() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('gbv-evidence', '{OTHER_TENANT}/a/1')"
    ));
    for role in PERSONS {
        session.run(&format!("SET ROLE {role}"));
        for sql in ["TRUNCATE storage.objects", "TRUNCATE storage.buckets CASCADE"] {
            assert_eq!(session.sqlstate(sql), "42501", "{role}: {sql}");
        }
        session.reset_role();
    }
    assert_eq!(session.text("SELECT count(*) FROM storage.objects"), "1");
}

#[test]
fn nobody_puts_a_trigger_on_the_objects_that_runs_as_service_role() {
    let mut session = Database::guarded().superuser();
    for role in PERSONS {
        session.run(&format!(
            "SET ROLE {role};
             CREATE FUNCTION pg_temp.of_{role}() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN RETURN NEW; END'"
        ));
        for table in ["storage.objects", "storage.buckets"] {
            let sql = format!(
                "CREATE TRIGGER bite BEFORE INSERT ON {table}
                     FOR EACH ROW EXECUTE FUNCTION pg_temp.of_{role}()"
            );
            assert_eq!(session.sqlstate(&sql), "42501", "{role}: {table}");
        }
        session.reset_role();
    }
}

#[test]
fn no_foreign_key_tells_whether_another_municipalitys_file_exists() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name) VALUES ('gbv-evidence', '{OTHER_TENANT}/a/1')"
    ));
    for role in PERSONS {
        session.run(&format!("CREATE SCHEMA of_{role} AUTHORIZATION {role}; SET ROLE {role}"));
        let sql = format!(
            "CREATE TABLE of_{role}.oracle (bucket_id text, name text,
                 FOREIGN KEY (bucket_id, name) REFERENCES storage.objects (bucket_id, name))"
        );
        assert_eq!(session.sqlstate(&sql), "42501", "{role}");
        session.reset_role();
    }
}

#[test]
fn nobody_locks_the_messages_against_another_municipalitys_tickets() {
    let mut session = Database::realtime().superuser();
    let today = session
        .text("SELECT 'realtime.messages_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD')");
    for role in PERSONS {
        session.run(&format!("SET ROLE {role}"));
        for table in ["realtime.messages", &today] {
            for mode in ["ACCESS EXCLUSIVE", "EXCLUSIVE", "SHARE"] {
                let sql = format!("BEGIN; LOCK TABLE {table} IN {mode} MODE");
                assert_eq!(session.sqlstate(&sql), "42501", "{role}: {sql}");
                session.run("ROLLBACK");
            }
        }
        session.reset_role();
    }
}

/// The privileges of tables and columns in these schemas, in an order of their own.
fn privileges(session: &mut Session) -> Vec<String> {
    session.column(
        "SELECT concat_ws(' ', c.oid::regclass, 'table', a::text)
         FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.relnamespace::regnamespace::text IN ('storage', 'realtime')
         UNION ALL
         SELECT concat_ws(' ', c.oid::regclass, t.attname, a::text)
         FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
         WHERE c.relnamespace::regnamespace::text IN ('storage', 'realtime')
         ORDER BY 1",
    )
}

/// What persons hold beyond what the services use.
const BEYOND: &str = "
    SELECT concat_ws(' ', r.rolname, c.oid::regclass, p.privilege)
    FROM pg_class c, pg_roles r,
         unnest(CASE WHEN current_setting('server_version_num')::int >= 170000
                     THEN ARRAY['TRUNCATE', 'TRIGGER', 'REFERENCES', 'MAINTAIN']
                     ELSE ARRAY['TRUNCATE', 'TRIGGER', 'REFERENCES'] END
                || CASE WHEN c.relname ~ '^messages' THEN ARRAY['UPDATE', 'DELETE'] END) p (privilege)
    WHERE c.relnamespace::regnamespace::text IN ('storage', 'realtime') AND c.relkind IN ('r', 'p')
      AND r.rolname IN ('anon', 'authenticated')
      AND has_table_privilege(r.oid, c.oid, p.privilege)";

#[test]
fn what_the_services_need_stays_granted() {
    let mut session = Database::realtime().superuser();
    assert_eq!(session.column(BEYOND), Vec::<String>::new());
    for role in PERSONS {
        for (table, privileges) in [
            ("storage.objects", ["SELECT", "INSERT", "UPDATE", "DELETE"].as_slice()),
            ("storage.buckets", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
            ("realtime.messages", &["SELECT", "INSERT"]),
        ] {
            for privilege in privileges {
                let sql = format!("SELECT has_table_privilege('{role}', '{table}', '{privilege}')");
                assert_eq!(session.text(&sql), "t", "{role} {table} {privilege}");
            }
        }
    }
    let service = "SELECT has_table_privilege('service_role', 'storage.objects', 'TRUNCATE')";
    assert_eq!(session.text(service), "t");
}

#[test]
fn teardown_grants_again_exactly_what_setup_revoked() {
    let database = Database::uninstalled();
    let mut session = database.superuser();
    session.run(REALTIME);
    let boss = database.role("boss", "");
    session.run(&format!(
        "CREATE EXTENSION pg_civic;
         GRANT REFERENCES (name), SELECT (name) ON storage.objects TO PUBLIC;
         GRANT TRIGGER ON storage.buckets TO anon WITH GRANT OPTION;
         GRANT TRUNCATE ON storage.objects TO {boss} WITH GRANT OPTION;
         GRANT USAGE ON SCHEMA storage TO {boss};
         SET ROLE {boss}; GRANT TRUNCATE ON storage.objects TO authenticated; RESET ROLE;
         DO $$ BEGIN EXECUTE 'GRANT SELECT ON realtime.messages_'
             || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD') || ' TO anon'; END $$"
    ));
    let before = privileges(&mut session);
    session.run(SETUP);
    assert_eq!(session.column(BEYOND), Vec::<String>::new());
    assert_ne!(privileges(&mut session), before);
    let kept = session.text("SELECT count(*) FROM civic.changed_privileges");
    session.run(SETUP);
    assert_eq!(session.text("SELECT count(*) FROM civic.changed_privileges"), kept);
    session.run(TEARDOWN);
    assert_eq!(privileges(&mut session), before);
    assert_eq!(session.text("SELECT count(*) FROM civic.changed_privileges"), "0");
    session.run(TEARDOWN);
    assert_eq!(privileges(&mut session), before);
}

#[test]
fn a_table_in_the_place_of_a_partition_gets_no_rights_and_stops_no_teardown() {
    let database = Database::uninstalled();
    let mut session = database.superuser();
    session.run(REALTIME);
    let mallory = database.role("mallory", "");
    session.run(&format!(
        "CREATE EXTENSION pg_civic;
         GRANT USAGE, CREATE ON SCHEMA realtime TO {mallory};
         CREATE TABLE realtime.messages_late PARTITION OF realtime.messages
             FOR VALUES FROM ('2001-01-01') TO ('2001-01-02');
         ALTER TABLE realtime.messages_late OWNER TO supabase_realtime_admin;
         SET ROLE supabase_realtime_admin;
         GRANT ALL ON realtime.messages_late TO anon;
         RESET ROLE"
    ));
    session.run(SETUP);
    session.run(&format!(
        "DROP TABLE realtime.messages_late;
         SET ROLE {mallory}; CREATE TABLE realtime.messages_late (x int); RESET ROLE"
    ));
    session.run(TEARDOWN);
    let rights = "SELECT has_table_privilege('anon', 'realtime.messages_late', 'SELECT')";
    assert_eq!(session.text(rights), "f");
    assert_eq!(session.text("SELECT count(*) FROM civic.changed_privileges"), "0");
}

#[test]
fn a_right_that_is_granted_again_is_found_and_repaired() {
    let mut session = Database::realtime().superuser();
    for (tampered, component) in [
        ("GRANT TRUNCATE ON storage.objects TO anon", "rights on the tables of storage"),
        ("GRANT ALL ON storage.buckets TO PUBLIC", "rights on the tables of storage"),
        (
            "GRANT REFERENCES (bucket_id, name) ON storage.objects TO authenticated",
            "rights on the tables of storage",
        ),
        // By Storage's own default privileges.
        (
            "SET ROLE supabase_storage_admin; CREATE TABLE storage.vectors (id int); RESET ROLE",
            "rights on the tables of storage",
        ),
        ("GRANT UPDATE ON realtime.messages TO anon", "rights on the tables of realtime"),
        ("GRANT DELETE ON realtime.messages TO PUBLIC", "rights on the tables of realtime"),
    ] {
        session.run(tampered);
        let wrong = session.wrong();
        let (_, _, fix) = wrong
            .iter()
            .find(|(found, ..)| found == component)
            .unwrap_or_else(|| panic!("{tampered}: {wrong:?}"));
        session.run(fix.as_deref().expect("a fix"));
        assert!(!session.wrong_components().iter().any(|found| found == component), "{tampered}");
    }
}

#[test]
fn a_right_by_membership_is_found_and_repaired() {
    let database = Database::guarded();
    let mut session = database.superuser();
    let group = database.role("group", "");
    session.run(&format!(
        "GRANT TRUNCATE ON storage.objects TO {group}; BEGIN; GRANT {group} TO anon"
    ));
    let (component, detail, fix) = session.wrong().remove(0);
    assert_eq!(component, "rights on the tables of storage");
    assert!(detail.contains(&format!("anon as a member of {group}")), "{detail}");
    session.run(&fix.expect("a fix"));
    assert_eq!(session.wrong(), []);
    session.run("ROLLBACK");
}

#[test]
fn a_right_that_the_caller_cannot_revoke_is_reported() {
    let database = Database::supabase();
    let mut session = database.superuser();
    let (role, boss) = (database.operator("owner", ""), database.role("boss", ""));
    session.run(&format!(
        "GRANT supabase_storage_admin TO {role};
         GRANT TRUNCATE ON storage.objects TO {boss} WITH GRANT OPTION;
         GRANT USAGE ON SCHEMA storage TO {boss};
         SET ROLE {boss}; GRANT TRUNCATE ON storage.objects TO anon;
         SET ROLE {role}"
    ));
    let steps = session.steps("SELECT * FROM civic.setup()");
    let left = steps.iter().find(|step| step.0 == "TRUNCATE on storage.objects of anon");
    let (_, action, detail) = left.unwrap_or_else(|| panic!("{steps:?}"));
    assert_eq!(action, "skipped");
    let statement = "REVOKE TRUNCATE ON TABLE storage.objects FROM anon CASCADE;";
    assert!(detail.contains(&boss) && detail.contains(statement), "{detail}");
    let found = session.wrong_components();
    assert!(found.contains(&"rights on the tables of storage".to_owned()), "{found:?}");
}

#[test]
fn what_was_revoked_survives_dump_and_restore() {
    let database = Database::realtime();
    let kept = "SELECT d::text FROM civic.changed_privileges d ORDER BY 1";
    let expected = database.superuser().column(kept);
    assert_ne!(expected, Vec::<String>::new());
    let restored = database.restored();
    let mut session = restored.superuser();
    assert_eq!(session.column(kept), expected);
    session.run(TEARDOWN);
    let truncate = "SELECT has_table_privilege('anon', 'storage.objects', 'TRUNCATE')
                       AND has_table_privilege('anon', 'realtime.messages', 'UPDATE')";
    assert_eq!(session.text(truncate), "t", "granted again");
}

#[test]
fn the_owner_of_the_tickets_is_granted_the_trigger_function_and_loses_it_with_the_last_trigger() {
    let database = Database::plain();
    let mut session = database.superuser();
    let app = database.role("app", "");
    session.run(&format!(
        "CREATE TABLE tickets (tenant_id text); CREATE TABLE repairs (tenant_id text);
         ALTER TABLE tickets OWNER TO {app}; ALTER TABLE repairs OWNER TO {app}"
    ));
    let may = format!(
        "SELECT has_function_privilege('{app}', 'civic.notify_ticket_update()', 'EXECUTE')"
    );
    let component = format!("EXECUTE on function civic.notify_ticket_update() for {app}");
    let steps = session.steps(SETUP);
    assert_eq!(action_of(&steps, &component), "done");
    assert_eq!(session.text(&may), "t");
    let steps = session.steps("SELECT * FROM civic.setup('repairs')");
    assert!(!steps.iter().any(|(name, ..)| *name == component), "{steps:?}");
    assert_eq!(action_of(&session.steps(TEARDOWN), &component), "removed");
    assert_eq!(session.text(&may), "f");
    // What an operator has granted is theirs.
    session.run(&format!("GRANT EXECUTE ON FUNCTION civic.notify_ticket_update() TO {app}"));
    session.run(SETUP);
    session.run(TEARDOWN);
    assert_eq!(session.text(&may), "t");
}

#[test]
fn nobody_gains_the_trigger_function_by_a_table_of_their_own() {
    let database = Database::plain();
    let mut session = database.superuser();
    let (role, other) = (database.operator("owner", ""), database.role("other", ""));
    session.run(&format!(
        "CREATE TABLE tickets (tenant_id text); ALTER TABLE tickets OWNER TO {role};
         CREATE TABLE of_a_group (tenant_id text); ALTER TABLE of_a_group OWNER TO {other};
         GRANT {other} TO {role};
         GRANT EXECUTE ON FUNCTION civic.notify_ticket_update() TO {other};"
    ));
    session.run(&format!("SET ROLE {role}"));
    // A member of the group that may.
    session.run("SELECT * FROM civic.setup('of_a_group')");
    session.run(&format!("RESET ROLE; REVOKE {other} FROM {role}; SET ROLE {role}"));
    let error = session.error(SETUP);
    assert_eq!(error.code().code(), "42501");
    assert!(error.message().contains("EXECUTE on function civic.notify_ticket_update()"));
    session.reset_role();
    let may = format!(
        "SELECT has_function_privilege('{role}', 'civic.notify_ticket_update()', 'EXECUTE')"
    );
    assert_eq!(session.text(&may), "f");
}
