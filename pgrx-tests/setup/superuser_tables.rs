//! Tables that belong to a superuser, on which other roles have TRIGGER, types or functions. What
//! pg_civic writes there, it writes as the owner: no code of others may run with these rights.

use crate::pg_tests::support::installation::SETUP;
use crate::pg_tests::support::{Database, Session, wait_until};

const FILE: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
const CONFIRM: &str =
    "SELECT civic.confirm_upload('7c9e6679-7425-40de-944b-e07fc1f90ae7', 'evidence')";

/// A role that has a function and a trigger function of its own, which make it a superuser where they
/// run as one.
fn trap(database: &Database) -> String {
    let mallory = database.role("mallory", "");
    let mut session = database.superuser();
    session.run(&format!(
        "CREATE SCHEMA evil AUTHORIZATION {mallory};
         GRANT USAGE ON SCHEMA evil TO PUBLIC;
         GRANT USAGE ON SCHEMA storage TO {mallory};
         SET ROLE {mallory};
         CREATE FUNCTION evil.spring() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
                 EXECUTE 'ALTER ROLE {mallory} SUPERUSER';
             END IF;
             RETURN false;
         END $$;
         CREATE FUNCTION evil.pure(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM evil.spring(); RETURN true; END $$;
         CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM evil.spring(); RETURN false; END $$;
         CREATE OPERATOR evil.=== (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
         CREATE DOMAIN evil.domain AS text CHECK (evil.pure(VALUE));
         CREATE DOMAIN evil.outer_domain AS evil.domain;
         CREATE TYPE evil.mood AS ENUM ('web', 'whatsapp');
         CREATE FUNCTION evil.to_json(evil.mood) RETURNS json LANGUAGE plpgsql AS
             $$ BEGIN PERFORM evil.spring(); RETURN '\"web\"'; END $$;
         CREATE CAST (evil.mood AS json) WITH FUNCTION evil.to_json(evil.mood);
         CREATE FUNCTION evil.on_row() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM evil.spring(); RETURN coalesce(NEW, OLD); END $$;
         RESET ROLE;
         GRANT ALL ON public.media_attachments TO {mallory}"
    ));
    mallory
}

#[track_caller]
fn gains_nothing(session: &mut Session, mallory: &str, case: &str) {
    let is_superuser = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{mallory}'");
    assert_eq!(session.text(&is_superuser), "f", "{case}");
}

/// A citizen who has uploaded a file.
fn citizen(database: &Database) -> Session {
    database.superuser().run(&format!(
        "INSERT INTO storage.objects (bucket_id, name, owner_id, metadata)
         VALUES ('evidence', 't1/{FILE}/a.jpg', 'u1',
                 '{{\"size\": 3, \"mimetype\": \"image/jpeg\"}}')"
    ));
    database.authenticated(
        "{\"sub\": \"u1\", \"app_metadata\": {\"tenant_id\": \"t1\", \"role\": \"citizen\"}}",
    )
}

#[test]
fn code_of_others_on_a_superusers_attachments_gains_nothing_from_an_upload() {
    const BUILTIN: &str = "suppress_redundant_updates_trigger()";
    let trigger = |condition: &str, function: &str| {
        format!(
            "SET ROLE mallory;
             CREATE TRIGGER trap BEFORE INSERT ON public.media_attachments
                 FOR EACH ROW {condition} EXECUTE FUNCTION {function};
             RESET ROLE"
        )
    };
    let cases = [
        ("trigger", trigger("", "evil.on_row()")),
        ("condition", trigger("WHEN (evil.spring())", BUILTIN)),
        ("operator", trigger("WHEN (NEW.purpose::text OPERATOR(evil.===) 'x')", BUILTIN)),
        ("domain", trigger("WHEN (NEW.purpose::evil.domain IS NULL)", BUILTIN)),
        (
            "a function of the server that runs a query",
            trigger(
                "WHEN (query_to_xml('SELECT evil.spring()', false, false, '') IS NULL)",
                BUILTIN,
            ),
        ),
        ("arguments", trigger("", "suppress_redundant_updates_trigger('x')")),
        (
            "column's default",
            "ALTER TABLE public.media_attachments ADD trap boolean DEFAULT evil.spring()".into(),
        ),
        (
            "constraint",
            "ALTER TABLE public.media_attachments ADD CHECK (evil.pure(purpose))".into(),
        ),
        (
            "column's domain",
            "ALTER TABLE public.media_attachments ADD trap evil.outer_domain".into(),
        ),
        (
            "cast of a column's type",
            "ALTER TABLE public.media_attachments ALTER source DROP DEFAULT,
                 ALTER source TYPE evil.mood USING source::text::evil.mood"
                .into(),
        ),
        ("index", "CREATE INDEX ON public.media_attachments ((evil.pure(purpose)))".into()),
    ];
    for (case, sql) in cases {
        let database = Database::guarded();
        let mallory = trap(&database);
        let mut session = database.superuser();
        session.run(&sql.replace("mallory", &mallory));
        gains_nothing(&mut session, &mallory, case);
        let error = citizen(&database).error(CONFIRM);
        assert_eq!(error.code().code(), "55000", "{case}: {}", error.message());
        assert!(error.message().contains("media_attachments"), "{case}: {}", error.message());
        gains_nothing(&mut session, &mallory, case);
    }
}

#[test]
fn a_partition_of_another_role_gains_nothing_from_an_upload() {
    let database = Database::guarded();
    let mallory = trap(&database);
    let mut session = database.superuser();
    session.run(&format!(
        "ALTER TABLE public.media_attachments RENAME TO former;
         CREATE TABLE public.media_attachments (LIKE public.former INCLUDING DEFAULTS)
             PARTITION BY LIST (tenant_id);
         CREATE TABLE public.media_attachments_t1 PARTITION OF public.media_attachments
             FOR VALUES IN ('t1');
         ALTER TABLE public.media_attachments_t1 OWNER TO {mallory};
         SET ROLE {mallory};
         ALTER TABLE public.media_attachments_t1 ALTER is_processed SET DEFAULT evil.spring(),
             ADD CHECK (evil.pure(purpose));
         RESET ROLE"
    ));
    let error = citizen(&database).error(CONFIRM);
    assert_eq!(error.code().code(), "55000", "{}", error.message());
    gains_nothing(&mut session, &mallory, "partition");
}

#[test]
fn a_superusers_own_code_on_his_attachments_is_no_obstacle() {
    let database = Database::guarded();
    let mut session = database.superuser();
    session.run(
        "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.updated_by = 'note'; RETURN NEW; END $$;
         CREATE TRIGGER note BEFORE INSERT ON public.media_attachments FOR EACH ROW
             WHEN (NEW.tenant_id IS DISTINCT FROM 'x' AND NEW.purpose::text ~ '^e')
             EXECUTE FUNCTION public.note();
         CREATE FUNCTION public.stamp() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER stamp BEFORE UPDATE ON public.media_attachments FOR EACH ROW
             EXECUTE FUNCTION public.stamp('updated_at')",
    );
    citizen(&database).run(CONFIRM);
    let row = "SELECT updated_by FROM public.media_attachments";
    assert_eq!(session.column(row), ["note"]);
}

#[test]
fn a_trigger_made_after_the_callers_snapshot_gains_nothing_from_an_upload() {
    let database = Database::guarded();
    let mallory = trap(&database);
    let mut citizen = citizen(&database);
    citizen.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    let mut session = database.superuser();
    session.run(&format!(
        "SET ROLE {mallory};
         CREATE TRIGGER trap BEFORE INSERT ON public.media_attachments
             FOR EACH ROW EXECUTE FUNCTION evil.on_row();
         RESET ROLE"
    ));
    assert_eq!(citizen.sqlstate(CONFIRM), "55000");
    gains_nothing(&mut session, &mallory, "an old snapshot");
}

#[test]
fn a_trigger_that_is_committed_while_setup_waits_gains_nothing() {
    let database = Database::supabase();
    let mallory = trap(&database);
    let mut session = database.superuser();
    session.run(&format!(
        "ALTER TABLE storage.buckets OWNER TO CURRENT_USER;
         ALTER FUNCTION storage.protect_delete() OWNER TO CURRENT_USER;
         GRANT TRIGGER ON storage.buckets TO {mallory}"
    ));
    let mut other = database.superuser();
    other.run(&format!(
        "SET ROLE {mallory};
         BEGIN;
         CREATE TRIGGER trap BEFORE INSERT ON storage.buckets
             FOR EACH ROW EXECUTE FUNCTION evil.on_row()"
    ));
    let waiting = std::thread::spawn({
        let mut setting_up = database.superuser();
        move || setting_up.sqlstate(SETUP)
    });
    wait_until("setup() waits", || {
        session.text(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted
                            AND relation = 'storage.buckets'::regclass)",
        ) == "t"
    });
    other.run("COMMIT");
    assert_eq!(waiting.join().unwrap(), "55000");
    gains_nothing(&mut session, &mallory, "setup()");
}

#[test]
fn a_condition_of_a_trigger_on_a_superusers_buckets_gains_nothing_from_setup() {
    let database = Database::supabase();
    let mallory = trap(&database);
    let mut session = database.superuser();
    session.run(&format!(
        "ALTER TABLE storage.buckets OWNER TO CURRENT_USER;
         ALTER FUNCTION storage.protect_delete() OWNER TO CURRENT_USER;
         GRANT TRIGGER ON storage.buckets TO {mallory};
         SET ROLE {mallory};
         CREATE TRIGGER trap BEFORE INSERT ON storage.buckets FOR EACH ROW
             WHEN (evil.spring()) EXECUTE FUNCTION suppress_redundant_updates_trigger();
         RESET ROLE"
    ));
    assert_eq!(session.sqlstate(SETUP), "55000");
    gains_nothing(&mut session, &mallory, "setup()");
}

#[test]
fn a_table_that_refers_to_a_superusers_buckets_gains_nothing_from_teardown() {
    let database = Database::supabase();
    let mallory = trap(&database);
    let mut session = database.superuser();
    session.run(SETUP);
    session.run(&format!(
        "ALTER TABLE storage.buckets OWNER TO CURRENT_USER;
         ALTER FUNCTION storage.protect_delete() OWNER TO CURRENT_USER;
         GRANT REFERENCES, SELECT ON storage.buckets TO {mallory};
         SET ROLE {mallory};
         CREATE TABLE evil.pointers (id text REFERENCES storage.buckets ON DELETE CASCADE);
         INSERT INTO evil.pointers VALUES ('evidence');
         CREATE TRIGGER trap AFTER DELETE ON evil.pointers
             FOR EACH ROW EXECUTE FUNCTION evil.on_row();
         RESET ROLE"
    ));
    assert_eq!(session.sqlstate("SELECT * FROM civic.teardown()"), "55000");
    gains_nothing(&mut session, &mallory, "teardown()");
}

#[test]
fn a_trigger_on_a_superusers_messages_gains_nothing_from_a_ticket() {
    let database = Database::realtime();
    let mallory = trap(&database);
    let mut session = database.superuser();
    session.run(&format!(
        "ALTER TABLE realtime.messages OWNER TO CURRENT_USER;
         ALTER FUNCTION realtime.send(jsonb, text, text, boolean) OWNER TO CURRENT_USER;
         GRANT USAGE ON SCHEMA realtime TO {mallory};
         DO $$ DECLARE partition regclass; BEGIN
             FOR partition IN SELECT inhrelid FROM pg_inherits
                              WHERE inhparent = 'realtime.messages'::regclass LOOP
                 EXECUTE format('ALTER TABLE %s OWNER TO CURRENT_USER', partition);
             END LOOP;
         END $$"
    ));
    session.run("INSERT INTO tickets (tenant_id) VALUES ('t1')");
    let sent = "SELECT count(*) FROM realtime.messages";
    assert_eq!(session.text(sent), "1", "without a trap messages are stored");
    // On a partition, which a table's own triggers do not show.
    session.run(&format!(
        "DO $$ BEGIN
             EXECUTE 'GRANT TRIGGER ON realtime.messages_'
                 || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD') || ' TO {mallory}';
             SET LOCAL ROLE {mallory};
             EXECUTE 'CREATE TRIGGER trap BEFORE INSERT ON realtime.messages_'
                 || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD')
                 || ' FOR EACH ROW EXECUTE FUNCTION evil.on_row()';
         END $$"
    ));
    session.warnings();
    session.run("INSERT INTO tickets (tenant_id) VALUES ('t1')");
    gains_nothing(&mut session, &mallory, "a ticket");
    assert_eq!(session.text(sent), "1");
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message().contains("evil.on_row()"), "{}", warnings[0].message());
}
