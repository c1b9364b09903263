//! civic.check() finds each fault, and its fix repairs it.

use crate::pg_tests::support::installation::{SETUP, Wrong};
use crate::pg_tests::support::{Database, Session};

const MIGRATED_TRIGGER: &str = "
    CREATE FUNCTION public.notify_ticket_update() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER notify_of_old AFTER INSERT ON tickets
        FOR EACH ROW EXECUTE FUNCTION public.notify_ticket_update()";

/// The only fault.
#[track_caller]
fn only_wrong(session: &mut Session, case: &str) -> Wrong {
    let mut wrong = session.wrong();
    assert_eq!(wrong.len(), 1, "{case}: {wrong:?}");
    wrong.remove(0)
}

/// Finds the fault and repairs it by the fix, then once more by `setup()`.
#[track_caller]
fn is_found_and_repaired(session: &mut Session, tampered: &str, component: &str) {
    for by_setup in [false, true] {
        session.run(tampered);
        let (found, _, fix) = only_wrong(session, tampered);
        assert_eq!(found, component, "{tampered}");
        let fix = fix.expect("a fix");
        assert!(fix.ends_with(';'), "{fix}");
        session.run(if by_setup { SETUP } else { &fix });
        assert_eq!(session.wrong(), [], "{tampered}; repaired by setup: {by_setup}");
    }
}

#[test]
fn check_has_a_row_for_each_component() {
    let mut session = Database::guarded().superuser();
    let found = session.rows("SELECT component, ok, detail, fix FROM civic.check()");
    let components: Vec<_> = found.iter().map(|row| row[0].as_deref().unwrap()).collect();
    assert_eq!(
        components,
        [
            "version",
            "bucket evidence",
            "bucket documents",
            "bucket gbv-evidence",
            "row security of storage.buckets",
            "row security of storage.objects",
            "function storage.civic_firewall(text, text)",
            "function storage.civic_firewall_upload(text, text)",
            "function storage.civic_firewall_exists()",
            "policy \"civic read\" on storage.objects",
            "policy \"civic upload\" on storage.objects",
            "policy \"civic firewall\" on storage.objects",
            "policy \"civic bounds\" on storage.objects",
            "policy \"civic closed\" on storage.objects",
            "policy \"civic no update\" on storage.objects",
            "policy \"civic no delete\" on storage.objects",
            "policy \"civic no update\" on storage.buckets",
            "policy \"civic no delete\" on storage.buckets",
            "index on (bucket_id, name COLLATE \"C\")",
            "rights on the tables of storage",
            "role anon",
            "role authenticated",
            "trigger ticket_update_notify on public.tickets",
            "table public.media_attachments",
            "table public.tickets",
            "civic.event_transport",
            "realtime",
            "relay",
            "media worker",
            "storage service",
            "WhatsApp media",
            "secrets of the storage service",
            "civic.media_table",
            "privileges of service_role",
            "privileges of authenticated",
            "privileges of pg_monitor",
            "privileges of pg_database_owner",
            "civic.sensitive_events",
            "civic.sensitive_readers",
            "civic.event_listeners",
        ]
    );
    for row in found {
        // Without the relay everything is right but slow, so its row has a fix and is ok.
        let fix = row[3].as_deref().unwrap_or_default();
        let is_relay = row[0].as_deref() == Some("relay");
        assert_eq!(row[1].as_deref(), Some("t"), "{row:?}");
        assert_eq!(fix.contains("shared_preload_libraries"), is_relay, "{row:?}");
        assert_eq!(fix.is_empty(), !is_relay, "{row:?}");
        assert!(row[2].is_some(), "{row:?}");
    }
}

#[test]
fn check_changes_nothing() {
    let mut session = Database::supabase().superuser();
    session.run("BEGIN READ ONLY");
    let before = session.traces();
    assert!(!session.wrong().is_empty());
    assert_eq!(session.traces(), before);
    session.run("COMMIT");
}

#[test]
fn before_setup_every_component_is_missing() {
    let mut session = Database::supabase().superuser();
    let wrong = session.wrong();
    assert_eq!(wrong.len(), 3 + 3 + 9 + 1 + 1, "{wrong:?}");
    session.run("SELECT civic.setup()");
    let (component, _, fix) = only_wrong(&mut session, "setup() without a table");
    assert_eq!(component, "trigger");
    session.run(&fix.expect("a fix"));
    assert_eq!(session.wrong(), []);
}

#[test]
fn a_dropped_or_changed_policy_is_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    for (table, name, permissive, command, role, clauses) in [
        ("objects", "civic read", "PERMISSIVE", "SELECT", "authenticated", "USING (true)"),
        ("objects", "civic upload", "PERMISSIVE", "INSERT", "authenticated", "WITH CHECK (true)"),
        ("objects", "civic firewall", "RESTRICTIVE", "ALL", "public", "USING (true)"),
        ("objects", "civic bounds", "RESTRICTIVE", "SELECT", "authenticated", "USING (true)"),
        ("objects", "civic closed", "RESTRICTIVE", "ALL", "public", "USING (true)"),
        ("objects", "civic no update", "RESTRICTIVE", "UPDATE", "public", "USING (true)"),
        ("objects", "civic no delete", "RESTRICTIVE", "DELETE", "public", "USING (true)"),
        ("buckets", "civic no update", "RESTRICTIVE", "UPDATE", "public", "USING (true)"),
        ("buckets", "civic no delete", "RESTRICTIVE", "DELETE", "public", "USING (true)"),
    ] {
        let on = format!("\"{name}\" ON storage.{table}");
        let component = format!("policy \"{name}\" on storage.{table}");
        let (using, check) = match command {
            "INSERT" => ("NULL", "pg_get_expr(polwithcheck, polrelid)"),
            _ => ("pg_get_expr(polqual, polrelid)", "pg_get_expr(polwithcheck, polrelid)"),
        };
        // The same expressions, in a policy of the other kind.
        let other = if permissive == "PERMISSIVE" { "RESTRICTIVE" } else { "PERMISSIVE" };
        let of_the_other_kind = session.text(&format!(
            "SELECT concat('DROP POLICY {on}; CREATE POLICY {on} AS {other} FOR {command} TO {role}',
                           ' USING (' || {using} || ')', ' WITH CHECK (' || {check} || ')')
             FROM pg_policy WHERE polname = '{name}' AND polrelid = 'storage.{table}'::regclass"
        ));
        for tampered in [
            format!("DROP POLICY {on}"),
            format!("ALTER POLICY {on} {clauses}"),
            format!("ALTER POLICY {on} TO service_role"),
            format!("ALTER POLICY {on} TO {role}, service_role"),
            of_the_other_kind,
        ] {
            // PUBLIC beside a role is PUBLIC.
            if tampered.contains("TO public, service_role") {
                continue;
            }
            is_found_and_repaired(&mut session, &tampered, &component);
        }
    }
    is_found_and_repaired(
        &mut session,
        "ALTER POLICY \"civic firewall\" ON storage.objects WITH CHECK (true)",
        "policy \"civic firewall\" on storage.objects",
    );
    is_found_and_repaired(
        &mut session,
        "CREATE POLICY \"SAPS liaisons read GBV evidence\" ON storage.objects USING (true)",
        "policy \"SAPS liaisons read GBV evidence\" on storage.objects",
    );
}

#[test]
fn a_dropped_or_changed_firewall_function_is_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    for (function, policy) in [
        ("storage.civic_firewall(text, text)", "civic firewall"),
        ("storage.civic_firewall_upload(text, text)", "civic firewall"),
        ("storage.civic_firewall_exists()", "civic closed"),
    ] {
        let component = format!("function {function}");
        for change in
            ["VOLATILE", "CALLED ON NULL INPUT", "SECURITY DEFINER", "SET search_path = public"]
        {
            let tampered = format!("ALTER FUNCTION {function} {change}");
            is_found_and_repaired(&mut session, &tampered, &component);
        }
        let tampered = format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC");
        is_found_and_repaired(&mut session, &tampered, &component);
        session.run(&format!("DROP FUNCTION {function} CASCADE"));
        let policy = format!("policy \"{policy}\" on storage.objects");
        assert_eq!(session.wrong_components(), [component, policy]);
        session.run(SETUP);
        assert_eq!(session.wrong(), []);
    }
}

#[test]
fn a_public_or_missing_bucket_and_disabled_row_security_are_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    for id in ["evidence", "documents", "gbv-evidence"] {
        let component = format!("bucket {id}");
        let public = format!("UPDATE storage.buckets SET public = true WHERE id = '{id}'");
        is_found_and_repaired(&mut session, &public, &component);
        let delete = format!(
            "SET storage.allow_delete_query = 'true';
             DELETE FROM storage.buckets WHERE id = '{id}';
             RESET storage.allow_delete_query"
        );
        is_found_and_repaired(&mut session, &delete, &component);
    }
    for table in ["storage.buckets", "storage.objects"] {
        let disabled = format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY");
        is_found_and_repaired(&mut session, &disabled, &format!("row security of {table}"));
    }
}

#[test]
fn an_index_without_a_range_is_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    let component = "index on (bucket_id, name COLLATE \"C\")";
    let create = |rest: &str| format!("CREATE INDEX storage_made_it ON storage.objects {rest}");
    let invalid = |index: &str| {
        format!(
            "SET allow_system_table_mods = on;
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'storage.{index}'::regclass;
             RESET allow_system_table_mods"
        )
    };
    let reset = "DROP INDEX IF EXISTS storage.idx_objects_bucket_id_name, storage.storage_made_it,
                     storage.civic_objects_bucket_id_name";
    for made in [
        String::new(),
        create("(bucket_id, name)"),
        create("(name COLLATE \"C\", bucket_id)"),
        create("(bucket_id, name COLLATE \"C\") WHERE bucket_id <> 'avatars'"),
        create("(bucket_id, name COLLATE \"C\" text_pattern_ops)"),
        create("(bucket_id COLLATE \"C\", name COLLATE \"C\")"),
        create("(bucket_id, lower(name) COLLATE \"C\")"),
        create("(bucket_id) INCLUDE (name)"),
        create("(bucket_id, name COLLATE \"C\")") + ";" + &invalid("storage_made_it"),
        // What CREATE INDEX CONCURRENTLY leaves when it fails, and another index of the name.
        create("(bucket_id, name COLLATE \"C\")")
            .replace("storage_made_it", "civic_objects_bucket_id_name")
            + ";"
            + &invalid("civic_objects_bucket_id_name"),
        create("(name)").replace("storage_made_it", "civic_objects_bucket_id_name"),
    ] {
        is_found_and_repaired(&mut session, &format!("{reset}; {made}"), component);
    }
    for made in [
        create("(bucket_id, name COLLATE \"C\")"),
        create("(bucket_id, name COLLATE \"C\", created_at)"),
        create("(bucket_id DESC, name COLLATE \"C\" DESC)"),
        create("(bucket_id, name COLLATE \"C\")").replace("INDEX", "UNIQUE INDEX"),
    ] {
        session.run(&format!("{reset}; {made}"));
        assert_eq!(session.wrong(), [], "{made}");
    }
}

#[test]
fn a_disabled_changed_or_missing_trigger_is_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    let component = "trigger ticket_update_notify on public.tickets";
    for tampered in [
        "ALTER TABLE tickets DISABLE TRIGGER ticket_update_notify",
        "ALTER TABLE tickets ENABLE REPLICA TRIGGER ticket_update_notify",
        "DROP TRIGGER ticket_update_notify ON tickets;
         CREATE TRIGGER ticket_update_notify AFTER INSERT ON tickets
         FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()",
        // As setup() created it before deletes were events.
        "DROP TRIGGER ticket_update_notify ON tickets;
         CREATE TRIGGER ticket_update_notify AFTER INSERT OR UPDATE ON tickets
         FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()",
        "DROP TRIGGER ticket_update_notify ON tickets;
         CREATE TRIGGER ticket_update_notify AFTER INSERT OR UPDATE ON tickets
         FOR EACH ROW WHEN (NEW.category <> 'gbv') EXECUTE FUNCTION civic.notify_ticket_update()",
    ] {
        is_found_and_repaired(&mut session, tampered, component);
    }
    is_found_and_repaired(&mut session, "DROP TRIGGER ticket_update_notify ON tickets", "trigger");
    session.run(
        "CREATE TRIGGER of_deletion AFTER DELETE ON tickets
         FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()",
    );
    assert_eq!(session.wrong(), [], "a second trigger of another name");
}

#[test]
fn a_disabled_trigger_of_a_partition_is_found_and_repaired() {
    let mut session = Database::plain().superuser();
    session.run(
        "CREATE TABLE tickets (tenant_id text) PARTITION BY LIST (tenant_id);
         CREATE TABLE part PARTITION OF tickets FOR VALUES IN ('a') PARTITION BY LIST (tenant_id);
         CREATE TABLE leaf PARTITION OF part DEFAULT",
    );
    session.run(SETUP);
    assert_eq!(session.wrong(), []);
    is_found_and_repaired(
        &mut session,
        "ALTER TABLE leaf DISABLE TRIGGER ticket_update_notify",
        "trigger ticket_update_notify on public.leaf",
    );
}

#[test]
fn a_trigger_of_the_migrations_under_another_name_is_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    session.run(MIGRATED_TRIGGER);
    let (component, _, fix) = only_wrong(&mut session, "the migrations' trigger");
    assert_eq!(component, "trigger of public.notify_ticket_update()");
    session.run(&fix.expect("a fix"));
    assert_eq!(session.wrong(), []);
}

#[test]
fn a_role_that_passes_row_security_is_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    for (role, tampered) in [
        ("anon", "ALTER ROLE anon BYPASSRLS"),
        ("authenticated", "ALTER ROLE authenticated BYPASSRLS"),
        ("authenticated", "ALTER ROLE authenticated SUPERUSER"),
        ("anon", "ALTER TABLE storage.objects OWNER TO anon"),
        (
            "authenticated",
            "CREATE ROLE owner_of_objects; ALTER TABLE storage.objects OWNER TO owner_of_objects;
             GRANT owner_of_objects TO authenticated; ALTER ROLE authenticated BYPASSRLS",
        ),
    ] {
        // Rolled back: roles are the whole server's.
        session.run("BEGIN");
        session.run(tampered);
        let (component, _, fix) = only_wrong(&mut session, tampered);
        assert_eq!(component, format!("role {role}"), "{tampered}");
        session.run(&fix.expect("a fix"));
        assert_eq!(session.wrong(), [], "{tampered}");
        session.run("ROLLBACK");
    }
}

#[test]
fn a_setting_that_publishes_too_much_or_excludes_all_roles_is_found_and_repaired() {
    let database = Database::guarded();
    let role = database.role("boss", "SUPERUSER");
    let name = database.name();
    for (component, value) in [
        ("civic.sensitive_events", "'full'"),
        ("civic.sensitive_readers", "' , '"),
        ("civic.event_listeners", "''"),
        ("civic.event_transport", "'none'"),
    ] {
        let set = format!("SET {component} = {value}");
        for tampered in [
            set.clone(),
            format!("ALTER DATABASE {name} {set}"),
            format!("ALTER ROLE {role} {set}"),
            format!("ALTER ROLE {role} IN DATABASE {name} {set}"),
        ] {
            let mut session = database.session_of(&role);
            session.run(&tampered);
            // Settings of a database or a role apply to sessions that begin later.
            let mut session = if tampered == set { session } else { database.session_of(&role) };
            let (found, _, fix) = only_wrong(&mut session, &tampered);
            assert_eq!(found, component, "{tampered}");
            session.run(&fix.expect("a fix"));
            let mut session = if tampered == set { session } else { database.session_of(&role) };
            assert_eq!(session.wrong(), [], "{tampered}");
        }
    }
    for value in ["redacted", "restricted"] {
        let mut session = database.superuser();
        session.run(&format!("SET civic.sensitive_events = {value}"));
        assert_eq!(session.wrong(), [], "{value}");
    }
}

#[test]
fn sql_objects_of_another_version_than_the_library_are_found() {
    let mut session = Database::guarded().superuser();
    session.run(
        "SET allow_system_table_mods = on;
         UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'pg_civic'",
    );
    let (component, detail, fix) = only_wrong(&mut session, "version");
    assert_eq!(component, "version");
    assert!(detail.ends_with("the SQL objects are 0.0.1"), "{detail}");
    assert_eq!(fix.as_deref(), Some("ALTER EXTENSION pg_civic UPDATE;"));
}

#[test]
fn a_missing_grant_to_service_role_is_found_and_repaired() {
    let mut session = Database::guarded().superuser();
    session.run("REVOKE EXECUTE ON FUNCTION civic.publish(text, jsonb, boolean) FROM service_role");
    let fixes = session.column("SELECT fix FROM civic.check() WHERE NOT ok");
    assert_eq!(fixes.len(), 1);
    session.run(&fixes[0]);
    assert!(session.column("SELECT fix FROM civic.check() WHERE NOT ok").is_empty());
}
