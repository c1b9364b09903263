//! Traps: code that others have put on the tables, types and names that civic.setup(),
//! civic.teardown() and civic.check() touch. A superuser runs these functions; none of that code may
//! run with a superuser's rights.

use crate::pg_tests::support::installation::{SETUP, TEARDOWN};
use crate::pg_tests::support::{Database, REALTIME, Session};

/// What each trap does: it notes as whom it runs, and as a superuser makes `mallory` one too. A
/// warning is left even where the transaction is rolled back.
fn spring(mallory: &str) -> String {
    format!(
        "CREATE SCHEMA traps;
         GRANT USAGE ON SCHEMA traps TO PUBLIC;
         CREATE TABLE traps.runs (trap text, role name);
         GRANT INSERT ON traps.runs TO PUBLIC;
         SET ROLE {mallory};
         RESET ROLE;
         CREATE FUNCTION traps.spring(trap text) RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN
             IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
                 RAISE WARNING 'sprung as superuser: %', trap;
                 EXECUTE 'ALTER ROLE {mallory} SUPERUSER';
             END IF;
             INSERT INTO traps.runs VALUES (trap, current_user);
             RETURN true;
         END $$;
         CREATE FUNCTION traps.pure(trap text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM traps.spring(trap); RETURN true; END $$;
         CREATE FUNCTION traps.pure_text(trap text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM traps.spring(trap); RETURN trap; END $$;
         CREATE FUNCTION traps.on_row() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN
                 PERFORM traps.spring(concat_ws(' ', TG_TABLE_NAME, TG_WHEN, TG_LEVEL, TG_OP));
                 RETURN coalesce(NEW, OLD);
             END $$;
         CREATE FUNCTION traps.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM traps.spring('event trigger ' || TG_TAG); END $$;
         CREATE DOMAIN traps.domain AS text DEFAULT 'x' CHECK (traps.pure('domain'));
         ALTER FUNCTION traps.spring(text) OWNER TO {mallory};
         ALTER FUNCTION traps.pure(text) OWNER TO {mallory};
         ALTER FUNCTION traps.pure_text(text) OWNER TO {mallory};
         ALTER FUNCTION traps.on_row() OWNER TO {mallory};
         ALTER FUNCTION traps.on_ddl() OWNER TO {mallory};"
    )
}

/// Every trap that a table can carry, laid by its owner.
fn traps_on(table: &str) -> String {
    let name = table.split('.').nth(1).expect("qualified");
    let mut traps = format!(
        "ALTER TABLE {table} ADD COLUMN trap_default boolean DEFAULT traps.spring('{name} default');
         ALTER TABLE {table} ADD COLUMN trap_domain traps.domain;
         ALTER TABLE {table} ADD COLUMN trap_generated boolean
             GENERATED ALWAYS AS (traps.pure('{name} generated column')) STORED;
         ALTER TABLE {table} ADD CONSTRAINT trap_check CHECK (traps.pure('{name} check'));
         CREATE INDEX ON {table} (traps.pure_text('{name} index expression'));
         CREATE POLICY trap ON {table} USING (traps.spring('{name} policy'))
             WITH CHECK (traps.spring('{name} policy'));"
    );
    for level in ["ROW", "STATEMENT"] {
        for time in ["BEFORE", "AFTER"] {
            traps += &format!(
                "CREATE TRIGGER a_{level}_{time} {time} INSERT OR UPDATE OR DELETE ON {table}
                     FOR EACH {level} EXECUTE FUNCTION traps.on_row();"
            );
        }
    }
    traps += &format!(
        "CREATE TRIGGER a_truncate BEFORE TRUNCATE ON {table}
             FOR EACH STATEMENT EXECUTE FUNCTION traps.on_row();"
    );
    traps
}

/// Nobody has become a superuser, and nothing of theirs ran as one.
#[track_caller]
fn unharmed(session: &mut Session, mallory: &str, case: &str) {
    let sprung: Vec<_> = session
        .warnings()
        .iter()
        .map(|warning| warning.message().to_owned())
        .filter(|message| message.starts_with("sprung"))
        .collect();
    assert_eq!(sprung, Vec::<String>::new(), "{case}");
    let as_superuser = session.column(
        "SELECT DISTINCT trap FROM traps.runs JOIN pg_roles ON rolname = role WHERE rolsuper",
    );
    assert_eq!(as_superuser, Vec::<String>::new(), "{case}");
    let is_superuser = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{mallory}'");
    assert_eq!(session.text(&is_superuser), "f", "{case}");
}

/// Runs what may fail, each statement by itself.
fn attempt(session: &mut Session, sql: &str) {
    let _ = session.client().batch_execute(sql);
}

/// The statements that `check()` prints.
fn fixes(session: &mut Session) -> Vec<String> {
    session.column("SELECT fix FROM civic.check() WHERE fix IS NOT NULL AND fix !~ 'ALTER SYSTEM'")
}

/// Calls every function of the schema with some value for each argument, whatever comes of it.
fn calls_every_function(session: &mut Session) {
    let calls = session.column(
        "SELECT format('SELECT * FROM civic.%I(%s)', p.proname,
                    (SELECT coalesce(string_agg(CASE format_type(t.oid, NULL)
                         WHEN 'text' THEN '''evidence'''
                         WHEN 'text[]' THEN '''{admin}''::text[]'
                         WHEN 'boolean' THEN 'true' WHEN 'integer' THEN '60' WHEN 'bigint' THEN '60'
                         WHEN 'uuid' THEN '''7c9e6679-7425-40de-944b-e07fc1f90ae7''::uuid'
                         WHEN 'jsonb' THEN '''{\"type\": \"x\", \"id\": 1}''::jsonb'
                         WHEN 'bytea' THEN '''x''::bytea'
                         WHEN 'regclass' THEN '''public.tickets''::regclass'
                         ELSE 'NULL' END, ', ' ORDER BY a.place), '')
                     FROM unnest(p.proargtypes) WITH ORDINALITY a (type, place)
                     JOIN pg_type t ON t.oid = a.type))
         FROM pg_proc p
         WHERE p.pronamespace = 'civic'::regnamespace AND p.prorettype <> 'trigger'::regtype
           AND p.proname <> 'teardown'",
    );
    assert!(calls.len() > 25);
    session.run(
        "SET request.jwt.claims = '{\"sub\": \"u\", \"app_metadata\": {\"tenant_id\": \"t\", \"role\": \"admin\"}}'",
    );
    for call in calls {
        attempt(session, &call);
    }
}

/// A database whose tables belong to their services and to an application, none a superuser.
fn trapped() -> (Database, Session, String) {
    let database = Database::uninstalled();
    let mut session = database.superuser();
    let mallory = database.role("mallory", "");
    let app = database.role("app", "");
    session.run(REALTIME);
    session.run(&spring(&mallory));
    session.run(&format!(
        "ALTER TABLE tickets OWNER TO {app};
         ALTER TABLE media_attachments OWNER TO {app};
         GRANT CREATE ON SCHEMA public TO {app};
         GRANT CREATE ON DATABASE {} TO {app};
         ALTER PUBLICATION supabase_realtime OWNER TO {app};
         GRANT USAGE, CREATE ON SCHEMA realtime TO supabase_realtime_admin",
        database.name()
    ));
    for (owner, table) in [
        ("supabase_storage_admin", "storage.buckets"),
        ("supabase_storage_admin", "storage.objects"),
        ("supabase_realtime_admin", "realtime.messages"),
        (&app, "public.tickets"),
        (&app, "public.media_attachments"),
    ] {
        session.run(&format!("SET ROLE {owner}"));
        session.run(&traps_on(table));
        session.reset_role();
    }
    session.run("TRUNCATE traps.runs");
    session.warnings();
    (database, session, mallory)
}

#[test]
fn no_trap_on_a_table_runs_with_a_superusers_rights() {
    let (_database, mut session, mallory) = trapped();
    session.run("CREATE EXTENSION pg_civic");
    for fix in fixes(&mut session) {
        attempt(&mut session, &fix);
        unharmed(&mut session, &mallory, &fix);
    }
    session.run(SETUP);
    unharmed(&mut session, &mallory, SETUP);
    assert_ne!(session.text("SELECT count(*) FROM traps.runs"), "0", "the traps are armed");
    session.run("SELECT * FROM civic.check()");
    unharmed(&mut session, &mallory, "check()");
    // What a careless hand or an attacker leaves for check() to find.
    for tampered in [
        "SET ROLE supabase_storage_admin; UPDATE storage.buckets SET public = true; RESET ROLE",
        "ALTER TABLE storage.objects DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE realtime.messages DISABLE ROW LEVEL SECURITY",
        "DROP INDEX storage.idx_objects_bucket_id_name",
        "ALTER TABLE tickets DISABLE TRIGGER ticket_update_notify",
        "ALTER PUBLICATION supabase_realtime DROP TABLE tickets",
        "DROP POLICY \"civic firewall\" ON storage.objects",
        "DO $$ BEGIN EXECUTE 'DROP TABLE realtime.messages_'
             || to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYY_MM_DD'); END $$",
    ] {
        session.run(tampered);
    }
    for fix in fixes(&mut session) {
        attempt(&mut session, &fix);
        unharmed(&mut session, &mallory, &fix);
    }
    calls_every_function(&mut session);
    unharmed(&mut session, &mallory, "every function");
    // Where the owner is held by row security, a superuser does not read in the owner's place.
    session.run("ALTER TABLE storage.buckets FORCE ROW LEVEL SECURITY");
    session.run("SELECT * FROM civic.check()");
    unharmed(&mut session, &mallory, "check() of forced row security");
    for sql in [SETUP, TEARDOWN] {
        assert_eq!(session.sqlstate(sql), "42501");
        unharmed(&mut session, &mallory, sql);
    }
    session.run("ALTER TABLE storage.buckets NO FORCE ROW LEVEL SECURITY");
    session.run(TEARDOWN);
    unharmed(&mut session, &mallory, TEARDOWN);
    session.run(SETUP);
    unharmed(&mut session, &mallory, "setup again");
}

#[test]
fn a_trigger_on_buckets_gains_no_superusers_rights_from_setup() {
    let database = Database::supabase();
    let mut session = database.superuser();
    let mallory = database.role("mallory", "");
    session.run(&spring(&mallory));
    session.run(
        "SET ROLE supabase_storage_admin;
         CREATE TRIGGER bite BEFORE INSERT ON storage.buckets
             FOR EACH ROW EXECUTE FUNCTION traps.on_row();
         RESET ROLE",
    );
    session.run(SETUP);
    unharmed(&mut session, &mallory, "setup");
    assert_eq!(
        session.column("SELECT DISTINCT role FROM traps.runs"),
        ["supabase_storage_admin"],
        "it ran as the table's owner"
    );
}

#[test]
fn a_temporary_trigger_of_anon_on_buckets_gains_no_superusers_rights_from_setup() {
    let database = Database::supabase();
    let (mut session, mut anon) = (database.superuser(), database.superuser());
    let mallory = database.role("mallory", "");
    session.run(&spring(&mallory));
    anon.run(
        "SET ROLE anon;
         CREATE FUNCTION pg_temp.up() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM traps.spring('temporary'); RETURN NEW; END $$;
         CREATE TRIGGER up BEFORE INSERT ON storage.buckets
             FOR EACH ROW EXECUTE FUNCTION pg_temp.up()",
    );
    session.run(SETUP);
    unharmed(&mut session, &mallory, "setup");
}

#[test]
fn a_trigger_on_deletes_gains_no_superusers_rights_from_teardown() {
    let database = Database::guarded();
    let mut session = database.superuser();
    let mallory = database.role("mallory", "");
    session.run(&spring(&mallory));
    session.run(
        "SET ROLE supabase_storage_admin;
         CREATE TRIGGER bite BEFORE DELETE ON storage.buckets
             FOR EACH ROW EXECUTE FUNCTION traps.on_row();
         RESET ROLE",
    );
    session.run(TEARDOWN);
    unharmed(&mut session, &mallory, "teardown");
}

#[test]
fn a_trigger_that_does_not_end_is_cancelled() {
    let mut session = Database::supabase().superuser();
    session.run(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(1000); RETURN NEW; END';
         CREATE TRIGGER wait BEFORE INSERT ON storage.buckets
             FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let before = session.traces();
    let error = session.error(SETUP);
    assert_eq!(error.code().code(), "57014");
    assert!(error.message().contains("storage.buckets"), "{}", error.message());
    assert_eq!(session.traces(), before, "nothing is half done");
    session.run("SET statement_timeout = '1s'");
    let error = session.error(SETUP);
    assert_eq!(
        error.message(),
        "canceling statement due to statement timeout",
        "the session's own"
    );
    session.run("RESET statement_timeout");
    assert_eq!(session.traces(), before, "nothing is half done");
}

#[test]
fn a_superusers_buckets_with_a_trigger_of_others_are_refused() {
    let database = Database::supabase();
    let mut session = database.superuser();
    let mallory = database.role("mallory", "");
    session.run(&spring(&mallory));
    session.run(
        "ALTER TABLE storage.buckets OWNER TO CURRENT_USER;
         CREATE TRIGGER bite BEFORE INSERT ON storage.buckets
             FOR EACH ROW EXECUTE FUNCTION traps.on_row()",
    );
    let error = session.error(SETUP);
    assert_eq!(error.code().code(), "55000");
    assert!(error.message().contains("storage.buckets"), "{}", error.message());
    unharmed(&mut session, &mallory, "refused");
    session.run("ALTER TABLE storage.buckets OWNER TO supabase_storage_admin");
    session.run(SETUP);
    unharmed(&mut session, &mallory, "as the hint says");
}

/// An enum with an implicit cast, in the place of a column's type.
fn enum_trap(column: &str) -> String {
    format!(
        "SET ROLE supabase_storage_admin;
         CREATE TYPE storage.bid AS ENUM ('evidence', 'documents', 'gbv-evidence', 'x');
         CREATE FUNCTION storage.bite(storage.bid) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN PERFORM traps.spring('cast'); RETURN 'evidence'; END $$;
         CREATE CAST (storage.bid AS text) WITH FUNCTION storage.bite(storage.bid) AS IMPLICIT;
         ALTER TABLE storage.objects DROP CONSTRAINT \"objects_bucketId_fkey\";
         INSERT INTO storage.buckets (id, name) VALUES ('evidence', 'evidence');
         INSERT INTO storage.objects (bucket_id, name) VALUES ('evidence', 'x');
         {column}
         RESET ROLE"
    )
}

#[test]
fn a_cast_of_an_enum_gains_no_superusers_rights_from_check() {
    for column in [
        "ALTER TABLE storage.buckets ALTER id TYPE storage.bid USING id::storage.bid;",
        "ALTER TABLE storage.objects ALTER bucket_id TYPE storage.bid USING bucket_id::storage.bid;",
        "DROP INDEX storage.idx_objects_bucket_id_name, storage.idx_objects_bucket_id_name_lower,
                    storage.name_prefix_search;
         ALTER TABLE storage.objects ALTER name TYPE storage.bid USING name::storage.bid;",
    ] {
        // The generated column depends on the name.
        let column = format!("ALTER TABLE storage.objects DROP COLUMN path_tokens; {column}");
        let database = Database::supabase();
        let mut session = database.superuser();
        let mallory = database.role("mallory", "");
        session.run(&spring(&mallory));
        session.run(&enum_trap(&column));
        session.run("TRUNCATE traps.runs");
        session.warnings();
        session.run("SELECT * FROM civic.check()");
        unharmed(&mut session, &mallory, &column);
        attempt(&mut session, SETUP);
        unharmed(&mut session, &mallory, &column);
        calls_every_function(&mut session);
        unharmed(&mut session, &mallory, &column);
        attempt(&mut session, TEARDOWN);
        unharmed(&mut session, &mallory, &column);
    }
}

#[test]
fn a_rule_on_buckets_gains_no_superusers_rights() {
    for kind in ["ALSO", "INSTEAD"] {
        let database = Database::supabase();
        let mut session = database.superuser();
        let mallory = database.role("mallory", "");
        session.run(&spring(&mallory));
        session.run(&format!(
            "SET ROLE supabase_storage_admin;
             CREATE RULE on_insert AS ON INSERT TO storage.buckets
                 DO {kind} SELECT traps.spring('insert');
             CREATE RULE on_update AS ON UPDATE TO storage.buckets
                 DO {kind} SELECT traps.spring('update');
             CREATE RULE on_delete AS ON DELETE TO storage.buckets
                 DO {kind} SELECT traps.spring('delete');
             RESET ROLE"
        ));
        for sql in [SETUP, "SELECT * FROM civic.check()", TEARDOWN] {
            attempt(&mut session, sql);
            unharmed(&mut session, &mallory, sql);
        }
        for fix in fixes(&mut session) {
            attempt(&mut session, &fix);
            unharmed(&mut session, &mallory, &fix);
        }
    }
}

#[test]
fn an_event_trigger_of_another_role_gains_no_superusers_rights() {
    let database = Database::supabase();
    let mut session = database.superuser();
    let (mallory, app) = (database.role("mallory", ""), database.role("app", ""));
    session.run(&spring(&mallory));
    let is_17 = session.text("SELECT current_setting('server_version_num')::int >= 170000") == "t";
    // A table whose owner is no superuser needs the grant on our function; one of a superuser is
    // changed with a superuser's rights.
    for owner in [app.as_str(), "CURRENT_USER"] {
        session.run(&format!("ALTER TABLE tickets OWNER TO {owner}"));
        for sql in [SETUP, TEARDOWN] {
            session.run(
                "CREATE EVENT TRIGGER trap ON ddl_command_end EXECUTE FUNCTION traps.on_ddl();
                 CREATE EVENT TRIGGER trap_of_drops ON sql_drop EXECUTE FUNCTION traps.on_ddl()",
            );
            if is_17 {
                session.run(sql);
            } else {
                let error = session.error(sql);
                assert_eq!(error.code().code(), "55000", "{sql}");
                assert!(error.message().contains("event trigger trap"), "{}", error.message());
            }
            unharmed(&mut session, &mallory, sql);
            session.run("DROP EVENT TRIGGER trap; DROP EVENT TRIGGER trap_of_drops");
            // Before 17 it has done nothing.
            session.run(sql);
            session.run("TRUNCATE traps.runs");
        }
        session.run(
            "CREATE EVENT TRIGGER trap ON ddl_command_end EXECUTE FUNCTION traps.on_ddl();
             CREATE EVENT TRIGGER trap_of_drops ON sql_drop EXECUTE FUNCTION traps.on_ddl()",
        );
        let found = "SELECT fix FROM civic.check() WHERE NOT ok AND component ~ '^event trigger'";
        let found = session.column(found);
        assert_eq!(found.len(), 2, "{found:?}");
        for fix in fixes(&mut session) {
            attempt(&mut session, &fix);
            unharmed(&mut session, &mallory, &fix);
        }
        session.run("DROP EVENT TRIGGER trap; DROP EVENT TRIGGER trap_of_drops");
        session.warnings();
        session.run("TRUNCATE traps.runs");
        session.run(SETUP);
        session.run(TEARDOWN);
    }
}

#[test]
fn names_on_the_search_path_of_a_superuser_gain_no_superusers_rights() {
    let database = Database::supabase();
    let mut session = database.superuser();
    let mallory = database.role("mallory", "");
    session.run(&spring(&mallory));
    session.run(&format!(
        "CREATE SCHEMA evil AUTHORIZATION {mallory};
         SET ROLE {mallory};
         CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN PERFORM traps.spring('operator'); RETURN true; END $$;
         CREATE FUNCTION evil.same(boolean, boolean) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN PERFORM traps.spring('operator'); RETURN true; END $$;
         CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
         CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = boolean, RIGHTARG = boolean);
         CREATE OPERATOR evil.<> (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
         CREATE FUNCTION evil.count() RETURNS bigint LANGUAGE plpgsql AS
             $$ BEGIN PERFORM traps.spring('function'); RETURN 0; END $$;
         CREATE DOMAIN evil.text AS pg_catalog.text CHECK (traps.pure('type'));
         CREATE DOMAIN evil.regclass AS pg_catalog.regclass CHECK (traps.pure('type'));
         RESET ROLE"
    ));
    for sql in [SETUP, "SELECT * FROM civic.check()", TEARDOWN, SETUP] {
        session.run("SET search_path = evil, pg_catalog, public");
        session.run(sql);
        session.run("RESET search_path");
        unharmed(&mut session, &mallory, sql);
    }
    for fix in fixes(&mut session) {
        attempt(&mut session, &fix);
        unharmed(&mut session, &mallory, &fix);
    }
}
