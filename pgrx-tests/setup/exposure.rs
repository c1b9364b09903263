//! Ways around the policies that civic.check() finds: views, materialized views, functions and triggers
//! that read or run with the rights of their owner.

use crate::pg_tests::support::installation::Wrong;
use crate::pg_tests::support::{Database, OTHER_TENANT, Session};

/// What `check()` finds wrong, but for the test server's own `wal_level` and the tickets' row security.
#[track_caller]
fn wrong(session: &mut Session) -> Vec<Wrong> {
    let mut wrong = session.wrong();
    wrong.retain(|(component, ..)| {
        component != "wal_level" && !component.ends_with("in publication supabase_realtime")
    });
    wrong
}

/// Finds one fault and repairs it as `check()` says.
#[track_caller]
fn is_found_and_repaired(session: &mut Session, made: &str, component: &str) -> String {
    session.run(made);
    let mut found = wrong(session);
    assert_eq!(found.len(), 1, "{made}: {found:?}");
    let (name, detail, fix) = found.remove(0);
    assert_eq!(name, component, "{made}");
    session.run(&fix.expect("a fix"));
    assert_eq!(wrong(session), [], "{made}");
    detail
}

#[test]
fn a_view_of_a_role_that_bypasses_row_security_is_found_and_repaired() {
    let database = Database::realtime();
    let mut session = database.superuser();
    let bypass = database.role("bypass", "BYPASSRLS");
    session.run(&format!(
        "GRANT ALL ON SCHEMA public TO {bypass};
         GRANT USAGE ON SCHEMA storage, realtime TO {bypass};
         GRANT SELECT ON storage.objects, storage.buckets, realtime.messages TO {bypass};
         INSERT INTO storage.objects (bucket_id, name) VALUES ('gbv-evidence', '{OTHER_TENANT}/a/1')"
    ));
    for (owner, table, people) in [
        (bypass.as_str(), "storage.objects", "anon"),
        (&bypass, "storage.buckets", "PUBLIC"),
        (&bypass, "realtime.messages", "authenticated"),
        ("supabase_storage_admin", "storage.objects", "authenticated"),
        ("CURRENT_USER", "storage.objects", "anon"),
    ] {
        let made = format!(
            "CREATE VIEW leak AS SELECT * FROM {table};
             ALTER VIEW leak OWNER TO {owner};
             GRANT SELECT ON leak TO {people}"
        );
        let detail = is_found_and_repaired(&mut session, &made, "view public.leak");
        assert!(detail.contains(table), "{detail}");
        session.run("SET ROLE anon");
        if people != "authenticated" && table == "storage.objects" {
            assert_eq!(session.text("SELECT count(*) FROM leak"), "0", "{owner}");
        }
        session.run("RESET ROLE; DROP VIEW leak");
    }
}

#[test]
fn a_view_through_other_views_or_of_one_column_is_found_and_repaired() {
    let database = Database::realtime();
    let mut session = database.superuser();
    for (made, component) in [
        (
            "CREATE VIEW inner_view AS SELECT * FROM storage.objects;
             CREATE VIEW outer_view WITH (security_invoker = true) AS SELECT name FROM inner_view;
             GRANT SELECT ON inner_view, outer_view TO authenticated;
             REVOKE SELECT ON inner_view FROM authenticated;
             GRANT SELECT (name) ON outer_view TO authenticated",
            "view public.outer_view",
        ),
        (
            "CREATE VIEW inner_view AS SELECT name FROM storage.objects;
             CREATE VIEW outer_view AS SELECT count(*) FROM (SELECT * FROM inner_view) AS query;
             GRANT SELECT ON outer_view TO anon",
            "view public.outer_view",
        ),
        (
            "DO $$ BEGIN EXECUTE 'CREATE VIEW outer_view AS SELECT * FROM realtime.messages_'
                 || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD'); END $$;
             GRANT INSERT ON outer_view TO anon",
            "view public.outer_view",
        ),
    ] {
        is_found_and_repaired(&mut session, made, component);
        session.run("DROP VIEW outer_view; DROP VIEW IF EXISTS inner_view");
    }
}

#[test]
fn a_copy_of_the_rows_is_found_and_repaired() {
    let mut session = Database::realtime().superuser();
    for made in [
        "CREATE MATERIALIZED VIEW copy AS SELECT * FROM storage.objects; GRANT SELECT ON copy TO anon",
        "CREATE VIEW inner_view WITH (security_invoker = true) AS SELECT * FROM storage.objects;
         CREATE MATERIALIZED VIEW copy AS SELECT * FROM inner_view; GRANT SELECT ON copy TO PUBLIC",
    ] {
        is_found_and_repaired(&mut session, made, "view public.copy");
        session.run("DROP MATERIALIZED VIEW copy");
    }
}

#[test]
fn a_function_with_its_owners_rights_is_found_and_repaired() {
    let mut session = Database::realtime().superuser();
    for (body, says) in [
        ("LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM storage.objects; END", "reads"),
        ("LANGUAGE sql AS 'SELECT count(*) FROM storage.objects'", "may read"),
        (
            "LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT 1 FROM \"storage\" . \"objects\"); END'",
            "may read",
        ),
        ("LANGUAGE plpgsql AS 'BEGIN DELETE FROM Realtime.Messages; RETURN 1; END'", "may read"),
    ] {
        let made = format!("CREATE FUNCTION leak() RETURNS bigint SECURITY DEFINER {body}");
        let detail = is_found_and_repaired(&mut session, &made, "function public.leak()");
        assert!(detail.starts_with(says), "{detail}");
        session.run("DROP FUNCTION leak()");
    }
}

#[test]
fn harmless_views_and_functions_are_not_reported() {
    let database = Database::realtime();
    let mut session = database.superuser();
    let plain = database.role("plain", "");
    session.run(&format!(
        "GRANT ALL ON SCHEMA public TO {plain};
         GRANT USAGE ON SCHEMA storage TO {plain};
         GRANT SELECT ON storage.objects TO {plain};
         CREATE VIEW of_the_invoker WITH (security_invoker) AS SELECT * FROM storage.objects;
         CREATE VIEW not_granted AS SELECT * FROM storage.objects;
         CREATE VIEW of_a_plain_role AS SELECT * FROM storage.objects;
         ALTER VIEW of_a_plain_role OWNER TO {plain};
         CREATE VIEW of_the_server AS SELECT * FROM pg_catalog.pg_class;
         GRANT SELECT ON of_the_invoker, of_a_plain_role, of_the_server TO anon, authenticated;
         GRANT SELECT ON not_granted TO service_role;
         CREATE FUNCTION of_the_invoker() RETURNS bigint LANGUAGE sql AS
             'SELECT count(*) FROM storage.objects';
         CREATE FUNCTION of_other_tables() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
             'SELECT count(*) FROM pg_class -- not mystorage.objects_old';
         CREATE FUNCTION of_the_server() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
             'SELECT count(*) FROM storage.objects';
         REVOKE EXECUTE ON FUNCTION of_the_server() FROM PUBLIC"
    ));
    assert_eq!(wrong(&mut session), []);
}

#[test]
fn a_trigger_of_others_on_a_guarded_table_is_found_and_repaired() {
    let database = Database::realtime();
    let mut session = database.superuser();
    let mallory = database.role("mallory", "");
    session.run(&format!(
        "CREATE FUNCTION bite() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         ALTER FUNCTION bite() OWNER TO {mallory};
         CREATE FUNCTION storage.own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         ALTER FUNCTION storage.own() OWNER TO supabase_storage_admin;
         CREATE TRIGGER own BEFORE INSERT ON storage.objects FOR EACH ROW EXECUTE FUNCTION storage.own()"
    ));
    assert_eq!(wrong(&mut session), []);
    for table in ["storage.buckets", "storage.objects", "realtime.messages"] {
        let made = format!(
            "CREATE TRIGGER \"a bite\" BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION bite()"
        );
        let component = format!("trigger a bite on {table}");
        let detail = is_found_and_repaired(&mut session, &made, &component);
        assert!(detail.contains(&mallory), "{detail}");
    }
    let today = session.text("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD')");
    let made = format!(
        "CREATE TRIGGER \"a bite\" BEFORE INSERT ON realtime.messages_{today}
             FOR EACH ROW EXECUTE FUNCTION bite()"
    );
    let component = format!("trigger a bite on realtime.messages_{today}");
    is_found_and_repaired(&mut session, &made, &component);
}

#[test]
fn a_superuser_who_owns_a_guarded_table_is_found_and_repaired() {
    let mut session = Database::realtime().superuser();
    for table in ["storage.buckets", "storage.objects", "realtime.messages"] {
        let made = format!("ALTER TABLE {table} OWNER TO CURRENT_USER");
        is_found_and_repaired(&mut session, &made, &format!("owner of {table}"));
    }
}

#[test]
fn default_privileges_on_the_partitions_of_tomorrow_are_found_and_repaired() {
    let mut session = Database::realtime().superuser();
    for made in [
        "ALTER DEFAULT PRIVILEGES IN SCHEMA realtime GRANT ALL ON TABLES TO anon",
        "ALTER DEFAULT PRIVILEGES FOR ROLE supabase_realtime_admin IN SCHEMA realtime
             GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE supabase_realtime_admin GRANT TRIGGER ON TABLES TO authenticated",
    ] {
        is_found_and_repaired(&mut session, made, "default privileges in schema realtime");
    }
}

#[test]
fn a_role_that_a_user_can_become_and_that_passes_row_security_is_found_and_repaired() {
    let database = Database::guarded();
    let mut session = database.superuser();
    let (boss, reader) = (database.role("boss", "SUPERUSER"), database.role("reader", "BYPASSRLS"));
    let group = database.role("group", "");
    for (person, made) in [
        ("anon", format!("GRANT {boss} TO anon")),
        ("authenticated", format!("GRANT {reader} TO {group}; GRANT {group} TO authenticated")),
        ("anon", "GRANT pg_read_server_files TO anon".to_owned()),
    ] {
        session.run(&format!("BEGIN; {made}"));
        let found = session.wrong();
        assert_eq!(found.len(), 1, "{made}: {found:?}");
        assert_eq!(found[0].0, format!("role {person}"), "{made}");
        session.run(found[0].2.as_deref().expect("a fix"));
        assert_eq!(session.wrong(), [], "{made}");
        session.run("ROLLBACK");
    }
}

#[test]
fn a_right_on_every_table_by_membership_is_found_and_repaired() {
    let database = Database::realtime();
    let mut session = database.superuser();
    for (role, count) in [("pg_maintain", 2), ("pg_write_all_data", 1)] {
        let exists = format!("SELECT to_regrole('{role}') IS NOT NULL");
        if session.text(&exists) == "f" {
            continue;
        }
        session.run(&format!("BEGIN; GRANT {role} TO anon"));
        let found = wrong(&mut session);
        assert_eq!(found.len(), count, "{found:?}");
        assert!(found[0].1.contains(role), "{found:?}");
        session.run(found[0].2.as_deref().expect("a fix"));
        assert_eq!(wrong(&mut session), []);
        session.run("ROLLBACK");
    }
}

#[test]
fn what_a_user_reaches_through_another_role_is_found_and_repaired() {
    let database = Database::realtime();
    let mut session = database.superuser();
    let group = database.role("group", "");
    session.run(&format!("GRANT {group} TO authenticated"));
    let view = "CREATE VIEW public.names AS SELECT name FROM storage.objects";
    let cases = [
        ("view names", format!("{view}; GRANT SELECT ON public.names TO {group}")),
        (
            "function names()",
            format!(
                "CREATE FUNCTION public.names() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER
                     AS 'SELECT name FROM storage.objects';
                 REVOKE ALL ON FUNCTION public.names() FROM PUBLIC;
                 GRANT EXECUTE ON FUNCTION public.names() TO {group}"
            ),
        ),
        (
            "function names()",
            format!(
                "{view};
                 CREATE FUNCTION public.names() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER
                     BEGIN ATOMIC SELECT name FROM public.names; END"
            ),
        ),
        (
            "function names()",
            "CREATE FUNCTION public.names() RETURNS bigint LANGUAGE sql SECURITY DEFINER
                 SET search_path = storage AS 'SELECT count(*) FROM objects'"
                .to_owned(),
        ),
    ];
    for (component, made) in cases {
        session.run(&format!("BEGIN; {made}"));
        let found = wrong(&mut session);
        assert_eq!(found.len(), 1, "{made}: {found:?}");
        assert_eq!(found[0].0.replace("public.", ""), component, "{made}");
        session.run(found[0].2.as_deref().expect("a fix"));
        assert_eq!(wrong(&mut session), [], "{made}");
        session.run("ROLLBACK");
    }
}
