//! civic.media_table: tables of any shape, and hostile owners.

use super::{SUB, add_object, json};
use crate::pg_tests::support::{Database, Session, TENANT, claims};

const FILE: &str = "8f14e45f-0000-4000-8000-00000000000a";

fn confirm() -> String {
    format!("SELECT civic.confirm_upload('{FILE}', 'evidence')")
}

fn uploaded() -> Database {
    let database = Database::guarded();
    add_object(&mut database.superuser(), "evidence", &format!("{TENANT}/{FILE}/photo.jpg"), SUB);
    database
}

/// A citizen, in a session in which a superuser has set another table.
fn citizen(database: &Database, table: &str) -> Session {
    let mut session = database.superuser();
    session.run(&format!("LOAD 'pg_civic'; SET civic.media_table = '{table}'"));
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    session
}

#[test]
fn only_the_columns_that_exist_are_written() {
    let database = uploaded();
    database.superuser().run(
        "CREATE SCHEMA \"My Media\";
         CREATE TABLE \"My Media\".\"the files\" (
             id bigint GENERATED ALWAYS AS IDENTITY,
             file_id uuid UNIQUE, s3_bucket text, s3_key text, file_size bigint,
             kilobytes bigint GENERATED ALWAYS AS (file_size / 1024) STORED,
             created_at timestamptz NOT NULL, note text DEFAULT 'none')",
    );
    let mut session = citizen(&database, "\"My Media\".\"the files\"");
    let answer = json(&mut session, &confirm());
    assert_eq!(answer["id"], 1);
    assert_eq!(answer["file_size"], 1234);
    assert_eq!(answer["purpose"], serde_json::Value::Null);
    assert_eq!(json(&mut session, &confirm()), answer);
    let row = "SELECT concat_ws(' ', kilobytes, note, created_at IS NOT NULL)
               FROM \"My Media\".\"the files\"";
    assert_eq!(database.superuser().text(row), "1 none t");
}

#[test]
fn a_table_that_cannot_record_a_file_is_reported() {
    let database = uploaded();
    database.superuser().run(
        "CREATE TABLE public.short (file_id text, s3_bucket text);
         CREATE VIEW public.seen AS SELECT * FROM public.media_attachments",
    );
    for (table, says) in [
        ("public.short", "s3_key"),
        ("public.seen", "does not exist"),
        ("public.absent", "does not exist"),
        ("media_attachments", "is not a qualified table name"),
        ("", "is not a qualified table name"),
    ] {
        let error = citizen(&database, table).error(&confirm());
        assert_eq!(error.code().code(), "PT500", "{table}");
        assert!(error.message().contains(says), "{error:?}");
        assert!(error.hint().expect("a hint").contains("civic.media_table"), "{error:?}");
    }
}

#[test]
fn callers_need_no_right_on_the_table() {
    let database = uploaded();
    database.superuser().run(
        "REVOKE ALL ON public.media_attachments FROM PUBLIC, authenticated;
         ALTER TABLE public.media_attachments ENABLE ROW LEVEL SECURITY",
    );
    let mut session = database.person(TENANT, "citizen");
    session.text(&confirm());
    assert_eq!(session.sqlstate("SELECT * FROM public.media_attachments"), "42501");
}

/// Gives the table of attachments to an ordinary role.
fn owned_by_a_plain_role(database: &Database) -> String {
    let owner = database.role("owner", "");
    database.superuser().run(&format!(
        "GRANT CREATE, USAGE ON SCHEMA public TO {owner};
         ALTER TABLE public.media_attachments OWNER TO {owner};
         CREATE TABLE public.seen (who text, what text); GRANT ALL ON public.seen TO PUBLIC"
    ));
    owner
}

#[test]
fn code_of_the_owner_on_the_table_runs_with_only_the_owners_rights() {
    let database = uploaded();
    let owner = owned_by_a_plain_role(&database);
    let mut session = database.superuser();
    session.run(&format!(
        "SET ROLE {owner};
         CREATE FUNCTION public.spies() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.seen VALUES (current_user, TG_OP); RETURN NEW; END $$;
         CREATE FUNCTION public.spies_by_default() RETURNS text LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.seen VALUES (current_user, 'default'); RETURN 'x'; END $$;
         CREATE TRIGGER before BEFORE INSERT ON public.media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.spies();
         CREATE TRIGGER after AFTER INSERT ON public.media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.spies();
         CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON public.media_attachments
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.spies();
         ALTER TABLE public.media_attachments ALTER updated_by SET DEFAULT public.spies_by_default()"
    ));
    // A user, and a superuser with a user's claims, whose commit is the target.
    session.reset_role();
    session.run("CREATE TEMP TABLE nothing ()");
    session.acts_as(
        &database.superuser().text("SELECT quote_ident(session_user)"),
        &claims(TENANT, "citizen"),
    );
    session.run("BEGIN");
    session.text(&confirm());
    session.run("COMMIT");
    session.reset_role();
    let seen = session.column("SELECT DISTINCT who FROM public.seen");
    assert_eq!(seen, [owner]);
    let count = session.text("SELECT count(*) FROM public.seen");
    assert_eq!(count, "4", "all of them ran");
}

/// Creates a trigger with this body on the table, as its owner.
fn set_trap(session: &mut Session, owner: &str, before: &str, body: &str) {
    session.run(&format!(
        "SET ROLE {owner}; {before};
         CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN {body}; RETURN NEW; END $$;
         CREATE TRIGGER trap BEFORE INSERT ON public.media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.trap();
         RESET ROLE"
    ));
}

#[test]
fn a_trigger_leaves_no_deferred_trigger_for_the_callers_commit() {
    let database = uploaded();
    let owner = owned_by_a_plain_role(&database);
    let mut session = database.superuser();
    let bait = "CREATE TABLE public.bait (n int);
         CREATE FUNCTION public.spring() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.seen VALUES (current_user, 'later'); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON public.bait
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.spring()";
    let again = "SET CONSTRAINTS public.spring DEFERRED; INSERT INTO public.bait VALUES (1)";
    set_trap(&mut session, &owner, bait, again);
    let mut liaison = database.person(TENANT, "saps_liaison");
    assert_eq!(liaison.sqlstate(&confirm()), "42501");
    assert_eq!(session.text("SELECT count(*) FROM public.seen"), "0");
}

#[test]
fn a_trigger_leaves_no_setting_for_the_callers_next_statement() {
    let database = uploaded();
    let owner = owned_by_a_plain_role(&database);
    let mut session = database.superuser();
    let body = "PERFORM set_config('request.jwt.claims',
                    '{\"app_metadata\": {\"tenant_id\": \"stolen\", \"role\": \"admin\"}}', false);
                PERFORM set_config('search_path', 'evil', false);
                PERFORM set_config('row_security', 'off', true)";
    set_trap(&mut session, &owner, "SELECT", body);
    let mut citizen = database.person(TENANT, "citizen");
    let settings = "SELECT concat_ws(' ', civic.tenant_id(), civic.user_role(),
                           current_setting('search_path'), current_setting('row_security'))";
    let before = citizen.text(settings);
    citizen.run("BEGIN");
    citizen.text(&confirm());
    assert_eq!(citizen.text(settings), before);
    citizen.run("COMMIT");
    assert_eq!(citizen.text(settings), before);
    assert!(before.contains(TENANT), "{before}");
}

#[test]
fn a_deferrable_key_is_checked_at_once() {
    let database = uploaded();
    let mut session = database.superuser();
    session.run(
        "ALTER TABLE public.media_attachments ADD FOREIGN KEY (ticket_id)
             REFERENCES public.tickets (id) DEFERRABLE INITIALLY DEFERRED,
         ADD UNIQUE (s3_key) DEFERRABLE INITIALLY DEFERRED",
    );
    database.person(TENANT, "citizen").text(&confirm());
    database.person(TENANT, "citizen").text(&confirm());
}

#[test]
fn a_trigger_cannot_become_the_caller() {
    let database = uploaded();
    let owner = owned_by_a_plain_role(&database);
    for attempt in ["SET ROLE NONE", "RESET ROLE", "RESET SESSION AUTHORIZATION"] {
        let mut session = database.superuser();
        session.run(&format!(
            "SET ROLE {owner};
             CREATE OR REPLACE FUNCTION public.climbs() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN EXECUTE '{attempt}'; RETURN NEW; END $$;
             DROP TRIGGER IF EXISTS climbs ON public.media_attachments;
             CREATE TRIGGER climbs BEFORE INSERT ON public.media_attachments
                 FOR EACH ROW EXECUTE FUNCTION public.climbs();
             RESET ROLE"
        ));
        session.acts_as(
            &database.superuser().text("SELECT quote_ident(session_user)"),
            &claims(TENANT, "citizen"),
        );
        assert_eq!(session.sqlstate(&confirm()), "42501", "{attempt}");
    }
}

#[test]
fn an_error_of_a_trigger_restores_the_callers_rights() {
    let database = uploaded();
    let owner = owned_by_a_plain_role(&database);
    let mut session = database.superuser();
    session.run(&format!(
        "SET ROLE {owner};
         CREATE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER fails BEFORE INSERT ON public.media_attachments
             FOR EACH ROW EXECUTE FUNCTION public.fails();
         RESET ROLE"
    ));
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    session.run("BEGIN; SAVEPOINT s");
    assert_eq!(session.sqlstate(&confirm()), "P0001");
    session.run("ROLLBACK TO s");
    assert_eq!(session.text("SELECT current_user"), "authenticated");
    session.run("COMMIT");
    let caught = format!(
        "DO $$ BEGIN PERFORM civic.confirm_upload('{FILE}', 'evidence');
               EXCEPTION WHEN others THEN
                   IF current_user <> 'authenticated' THEN RAISE EXCEPTION '%', current_user; END IF;
               END $$"
    );
    session.run(&caught);
}

#[test]
fn a_table_in_pg_temp_or_first_in_the_search_path_receives_nothing() {
    let database = uploaded();
    let mut session = database.person(TENANT, "citizen");
    session.run(
        "CREATE TEMP TABLE media_attachments (file_id text, s3_bucket text, s3_key text);
         SET search_path = pg_temp, public",
    );
    session.text(&confirm());
    assert_eq!(session.text("SELECT count(*) FROM pg_temp.media_attachments"), "0");
    let count = "SELECT count(*) FROM public.media_attachments";
    assert_eq!(database.superuser().text(count), "1");
}

#[test]
fn a_callers_own_deferred_triggers_do_not_run_as_the_tables_owner() {
    let database = uploaded();
    let mut superuser = database.superuser();
    superuser.run(
        "CREATE TABLE public.seen (who text, what text); GRANT ALL ON public.seen TO PUBLIC;
         GRANT CREATE ON SCHEMA public TO authenticated",
    );
    let mut session = database.person(TENANT, "citizen");
    session.run(
        "CREATE TABLE public.own (n int);
         CREATE FUNCTION public.climbs() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.seen VALUES (current_user, 'own'); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER own AFTER INSERT ON public.own
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.climbs();
         BEGIN; INSERT INTO public.own VALUES (1)",
    );
    session.text(&confirm());
    session.run("COMMIT");
    assert_eq!(superuser.column("SELECT who FROM public.seen"), ["authenticated"]);
}

#[test]
fn a_table_without_a_key_still_records_a_file_once() {
    let database = uploaded();
    let mut superuser = database.superuser();
    superuser
        .run("ALTER TABLE public.media_attachments DROP CONSTRAINT media_attachments_file_id_key");
    let mut session = database.person(TENANT, "citizen");
    assert_eq!(json(&mut session, &confirm()), json(&mut session, &confirm()));
    assert_eq!(superuser.text("SELECT count(*) FROM public.media_attachments"), "1");
}

#[test]
fn a_value_that_the_table_cannot_hold_records_nothing() {
    let database = uploaded();
    let mut superuser = database.superuser();
    superuser.run(
        "UPDATE storage.objects SET metadata = '{\"size\": 99999999999, \"mimetype\": \"image/jpeg\"}'",
    );
    let mut session = database.person(TENANT, "citizen");
    assert_eq!(session.sqlstate(&confirm()), "22003");
    assert_eq!(superuser.text("SELECT count(*) FROM public.media_attachments"), "0");
}
