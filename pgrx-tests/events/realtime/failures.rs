//! A failure on the way to Realtime costs a WARNING, never the ticket, and the code of other roles
//! on that way gains no rights.

use std::time::{Duration, Instant};

use serde_json::json;

use super::insert;
use crate::pg_tests::support::installation::wait_until_blocked;
use crate::pg_tests::support::{Database, Session, TENANT, claims};

/// A session that listens to its municipality by NOTIFY.
fn session(database: &Database) -> Session {
    let mut session = database.superuser();
    session.listens_to(TENANT);
    session
}

/// Adds two tickets in one transaction. Both are stored and received by NOTIFY, and one WARNING
/// contains `why` and says what to do.
#[track_caller]
fn assert_only_warned(session: &mut Session, why: &str) {
    session.run("DELETE FROM tickets");
    session.warnings();
    session.heard();
    session.run(&format!(
        "BEGIN; {} {} COMMIT",
        insert(TENANT, 1, false),
        insert(TENANT, 2, false)
    ));
    assert_eq!(session.text("SELECT count(*) FROM tickets"), "2", "{why}");
    assert_eq!(session.heard().len(), 2, "{why}");
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let message = warnings[0].message();
    assert!(message.starts_with("2 events were not sent to Supabase Realtime: "), "{message}");
    assert!(message.contains(why), "{message}");
    assert!(warnings[0].hint().is_some_and(|hint| hint.len() > 20), "{why}");
}

/// A change in Realtime, the text of the WARNING, and the component of `check()` that reports it in
/// advance.
const OBSTACLES: [(&str, &str, &str); 12] = [
    (
        "DO $$ DECLARE t regclass; BEGIN
             FOR t IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'realtime.messages'::regclass
             LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$",
        "realtime.messages has no partition for today",
        "partitions of realtime.messages",
    ),
    (
        "DROP FUNCTION realtime.send",
        "there is no function realtime.send(jsonb, text, text, boolean)",
        "realtime.send",
    ),
    (
        "DROP FUNCTION realtime.send;
         CREATE FUNCTION realtime.send(topic text, event text, payload jsonb, private boolean)
             RETURNS void LANGUAGE sql AS ''",
        "there is no function realtime.send(jsonb, text, text, boolean)",
        "realtime.send",
    ),
    (
        "DROP FUNCTION realtime.send;
         CREATE PROCEDURE realtime.send(jsonb, text, text, boolean) LANGUAGE sql AS ''",
        "there is no function realtime.send(jsonb, text, text, boolean)",
        "realtime.send",
    ),
    (
        "CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
             RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'out of order'; END $$",
        "realtime.send raised: out of order",
        "realtime.send",
    ),
    (
        "ALTER TABLE realtime.messages ADD COLUMN shard text NOT NULL",
        "realtime.send did not store them",
        "realtime.send",
    ),
    ("DROP TABLE realtime.messages", "there is no table realtime.messages", "civic.event_transport"),
    ("DROP SCHEMA realtime CASCADE", "there is no table realtime.messages", "civic.event_transport"),
    (
        "DROP POLICY \"civic channels\" ON realtime.messages",
        "the channels are not guarded",
        "policy \"civic channels\" on realtime.messages",
    ),
    (
        "DROP POLICY \"civic channels\" ON realtime.messages;
         CREATE POLICY \"civic channels\" ON realtime.messages FOR SELECT USING (true)",
        "the channels are not guarded",
        "policy \"civic channels\" on realtime.messages",
    ),
    (
        "ALTER TABLE realtime.messages DISABLE ROW LEVEL SECURITY",
        "the channels are not guarded",
        "row security of realtime.messages",
    ),
    // Only a query that the server cancels is cancelled.
    (
        "CREATE FUNCTION public.cancels() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'not cancelled' USING errcode = '57014'; END $$;
         CREATE TRIGGER cancels BEFORE INSERT ON realtime.messages
             FOR EACH ROW EXECUTE FUNCTION public.cancels()",
        "realtime.send raised: not cancelled",
        "realtime.send",
    ),
];

#[test]
fn whatever_fails_in_realtime_the_ticket_is_written_and_notify_goes_out() {
    for (change, why, component) in OBSTACLES {
        let database = Database::realtime();
        let mut session = session(&database);
        session.run("SET civic.event_transport = 'notify, realtime'");
        session.run(change);
        let wrong = session.wrong_components();
        assert!(wrong.iter().any(|wrong| wrong == component), "{component}: {wrong:?}");
        assert_only_warned(&mut session, why);
    }
}

#[test]
fn after_a_repair_the_same_session_sends_again() {
    let database = Database::realtime();
    let mut session = session(&database);
    session.run("ALTER FUNCTION realtime.send RENAME TO sent");
    assert_only_warned(&mut session, "there is no function");
    session.run("ALTER FUNCTION realtime.sent RENAME TO send");
    session.run(&insert(TENANT, 3, false));
    assert_eq!(session.messages().len(), 1);
    assert_eq!(session.warnings().len(), 0);
}

#[test]
fn auto_does_not_warn_after_realtime_was_removed() {
    let database = Database::realtime();
    let mut session = session(&database);
    session.run("DROP SCHEMA realtime CASCADE");
    session.run(&insert(TENANT, 1, false));
    assert_eq!(session.heard().len(), 1);
    assert_eq!(session.warnings().len(), 0);
}

#[test]
fn an_event_that_cannot_be_stored_does_not_lose_the_others() {
    let database = Database::realtime();
    let mut session = session(&database);
    session.makes_ticket_table("id int, tenant_id text, status json");
    // JSON can contain a NUL escape, jsonb cannot.
    session.run(&format!(
        "INSERT INTO ticket SELECT n, '{TENANT}', CASE n WHEN 2 THEN '\"\\u0000\"' ELSE '\"open\"' END::json
         FROM generate_series(1, 3) n"
    ));
    let published: Vec<_> = session.published("ticket_id").into_iter().map(|(_, id)| id).collect();
    assert_eq!(published, [json!("1"), json!("3")]);
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let message = warnings[0].message();
    assert!(message.starts_with("1 event was not sent to Supabase Realtime: "), "{message}");
    assert_eq!(session.heard().len(), 3);
}

#[test]
fn after_repeated_failures_the_rest_of_a_million_rows_is_not_tried() {
    let database = Database::realtime();
    let mut session = session(&database);
    session.run(
        "CREATE SEQUENCE tries; GRANT USAGE ON SEQUENCE tries TO PUBLIC;
         CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
         RETURNS void LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('public.tries'); RAISE EXCEPTION 'no'; END $$",
    );
    session.run(&format!(
        "INSERT INTO tickets (tenant_id) SELECT '{TENANT}' FROM generate_series(1, 1000)"
    ));
    assert_eq!(session.text("SELECT last_value FROM tries"), "11", "one together, ten alone");
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message().starts_with("1000 events were not sent"));
}

#[test]
fn a_ticket_does_not_wait_for_a_lock_on_the_messages() {
    let database = Database::realtime();
    let mut holder = database.superuser();
    holder.run("BEGIN; LOCK TABLE realtime.messages IN ACCESS EXCLUSIVE MODE");
    let mut session = session(&database);
    for lock_timeout in ["0", "100ms", "10min"] {
        session.run(&format!("SET lock_timeout = '{lock_timeout}'"));
        session.run("DELETE FROM tickets");
        session.warnings();
        let start = Instant::now();
        session.run(&format!(
            "INSERT INTO tickets (tenant_id) SELECT '{TENANT}' FROM generate_series(1, 1000)"
        ));
        // One second for all of them together. A wait for each would take minutes.
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        assert_eq!(session.text("SELECT count(*) FROM tickets"), "1000");
        let warnings = session.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].message().starts_with("1000 events were not sent"), "{warnings:?}");
        let restored = session.text("SHOW lock_timeout");
        assert_eq!(restored, lock_timeout);
    }
}

#[test]
fn a_cancelled_commit_stays_cancelled() {
    let database = Database::realtime();
    let mut holder = database.superuser();
    holder.run("BEGIN; LOCK TABLE realtime.messages IN ACCESS EXCLUSIVE MODE");
    let mut session = database.superuser();
    let process = session.process();
    let waiting = std::thread::spawn(move || session.sqlstate(&insert(TENANT, 1, false)));
    wait_until_blocked(&database, &process);
    database.superuser().run(&format!("SELECT pg_cancel_backend({process})"));
    assert_eq!(waiting.join().expect("it answers"), "57014");
    assert_eq!(database.superuser().text("SELECT count(*) FROM tickets"), "0");
}

#[test]
fn a_transaction_that_ends_read_only_is_written_with_a_warning() {
    let database = Database::realtime();
    let mut session = session(&database);
    session.run(&format!("BEGIN; {} SET TRANSACTION READ ONLY; COMMIT", insert(TENANT, 1, false)));
    assert_eq!(session.text("SELECT count(*) FROM tickets"), "1");
    assert_eq!(session.warnings().len(), 1);
}

/// Records the role it runs as, tries to gain more rights, and stores the message.
const HOSTILE_SEND: &str = "
    CREATE TABLE public.attempts (who text, setting text, what text);
    GRANT INSERT ON public.attempts TO PUBLIC;
    CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
    RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        statement text;
        outcome text;
    BEGIN
        FOREACH statement IN ARRAY ARRAY[
            'RESET ROLE', 'SET ROLE NONE', 'SET SESSION AUTHORIZATION DEFAULT',
            'ALTER ROLE supabase_realtime_admin SUPERUSER', 'CREATE ROLE backdoor SUPERUSER',
            'COPY public.attempts TO PROGRAM ''true''', 'CREATE TEMP TABLE pg_class (a int)',
            'UPDATE public.tickets SET status = ''hacked''', 'SELECT * FROM public.tickets',
            'ALTER SYSTEM SET civic.sensitive_events = ''full''', 'SET civic.sensitive_readers = ''citizen''']
        LOOP
            BEGIN
                EXECUTE statement;
                outcome := 'done';
            EXCEPTION WHEN OTHERS THEN
                outcome := SQLSTATE;
            END;
            INSERT INTO public.attempts
            VALUES (current_user, current_setting('search_path'), outcome || ' ' || statement);
        END LOOP;
    END
    $$";

#[test]
fn a_hostile_send_has_only_its_table_owners_rights() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(HOSTILE_SEND);
    session.run("SET search_path = public");
    session.run(&insert(TENANT, 1, false));
    let attempts = session.rows("SELECT DISTINCT who, setting FROM public.attempts");
    let (who, path) = (attempts[0][0].as_deref(), attempts[0][1].as_deref());
    assert_eq!(attempts.len(), 1);
    assert_eq!((who, path), (Some("supabase_realtime_admin"), Some("pg_catalog, pg_temp")));
    let done = "SELECT what FROM public.attempts WHERE what LIKE 'done %'";
    assert_eq!(session.column(done), Vec::<String>::new());
    assert_eq!(session.text("SELECT count(*) FROM public.attempts"), "11");
    // Afterwards the session has its own role again.
    assert_eq!(session.text("SELECT current_user = session_user"), "t");
    assert_eq!(session.text("SHOW search_path"), "public");
}

#[test]
fn a_send_function_of_another_role_is_not_called() {
    let database = Database::realtime();
    let stranger = database.role("stranger", "");
    let mut session = session(&database);
    session.run("ALTER TABLE tickets ENABLE ROW LEVEL SECURITY");
    let alter = "ALTER FUNCTION realtime.send(jsonb, text, text, boolean)";
    session.run(&format!("{alter} OWNER TO {stranger}"));
    assert_only_warned(&mut session, "lacks the rights of the owner of realtime.messages");
    assert!(session.wrong_components().contains(&"realtime.send".to_owned()));
    session.run(&format!("{alter} SECURITY DEFINER"));
    assert_only_warned(&mut session, "lacks the rights of the owner of realtime.messages");
    assert_eq!(session.messages().len(), 0);
    // A role that can act as the owner anyway gains nothing by being called as the owner.
    session.run(&format!("GRANT supabase_realtime_admin TO {stranger}"));
    for (number, security) in [(3, "INVOKER"), (4, "DEFINER")] {
        session.run(&format!("{alter} SECURITY {security}"));
        session.run(&insert(TENANT, number, false));
        assert_eq!(session.warnings().len(), 0, "{security}");
    }
    assert_eq!(session.messages().len(), 2);
}

#[test]
fn a_trigger_on_the_messages_does_not_run_as_a_superuser() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(
        "CREATE TABLE public.ran (who text); GRANT INSERT ON public.ran TO PUBLIC;
         CREATE FUNCTION public.spies() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN NEW; END $$;
         CREATE TRIGGER spies BEFORE INSERT ON realtime.messages FOR EACH ROW EXECUTE FUNCTION public.spies()",
    );
    session.run(&insert(TENANT, 1, false));
    assert_eq!(session.column("SELECT who FROM public.ran"), ["supabase_realtime_admin"]);
}

#[test]
fn names_on_the_writers_search_path_are_not_used() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.bite() RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'bitten as %', current_user; END $$;
         CREATE FUNCTION evil.format(text, text) RETURNS text RETURN evil.bite();
         CREATE FUNCTION evil.gen_random_uuid() RETURNS uuid RETURN evil.bite()::uuid;
         CREATE FUNCTION evil.jsonb_set(jsonb, text[], jsonb) RETURNS jsonb RETURN evil.bite()::jsonb;
         CREATE FUNCTION evil.has(jsonb, text) RETURNS boolean RETURN evil.bite()::boolean;
         CREATE OPERATOR evil.? (FUNCTION = evil.has, LEFTARG = jsonb, RIGHTARG = text);
         GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT INSERT ON tickets TO authenticated",
    );
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    session.run("SET search_path = evil, pg_catalog, public");
    session.run(&insert(TENANT, 1, false));
    assert_eq!(session.warnings().len(), 0);
    assert_eq!(database.superuser().messages().len(), 1);
}

#[test]
fn an_unguarded_schema_named_realtime_receives_nothing() {
    let database = Database::guarded();
    let impostor = database.role("impostor", "");
    database
        .superuser()
        .run(&format!("GRANT CREATE ON DATABASE {} TO {impostor}", database.name()));
    let mut session = database.session_of(&impostor);
    session.run(
        "CREATE SCHEMA realtime; CREATE TABLE realtime.messages (topic text, payload jsonb);
         CREATE FUNCTION realtime.send(jsonb, text, text, boolean) RETURNS void LANGUAGE sql AS
             'INSERT INTO realtime.messages VALUES ($3, $1)';
         GRANT ALL ON SCHEMA realtime TO PUBLIC",
    );
    let mut writer = database.superuser();
    writer.run(&insert(TENANT, 1, true));
    assert_eq!(session.text("SELECT count(*) FROM realtime.messages"), "0");
    assert!(writer.warnings()[0].message().ends_with("the channels are not guarded"));
}
