//! Locks on the way to Realtime: a ticket waits at most `civic.realtime_lock_timeout` for all of
//! them together.

use std::time::{Duration, Instant};

use super::insert;
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims, wait_until};

/// Far longer than the setting, and far shorter than three locks at a second each.
const LONGEST: Duration = Duration::from_millis(1500);

/// On a busy machine the fastest of several attempts shows what the code does.
#[track_caller]
fn commits_in_time(session: &mut Session, statement: &str, count: usize) {
    wait_until("one commits in time", || commits(session, statement, count) < LONGEST);
}

/// The duration of a statement whose events are not stored in Realtime.
#[track_caller]
fn commits(session: &mut Session, statement: &str, count: usize) -> Duration {
    session.warnings();
    let start = Instant::now();
    session.run(statement);
    let elapsed = start.elapsed();
    let warnings = session.warnings();
    assert_eq!(session.heard().len(), count, "NOTIFY goes out all the same");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let message = warnings[0].message();
    assert!(message.contains("not sent to Supabase Realtime"), "{message}");
    assert!(message.contains("civic.realtime_lock_timeout"), "{message}");
    assert!(warnings[0].hint().is_some_and(|hint| hint.contains("pg_locks")), "{warnings:?}");
    elapsed
}

#[test]
fn a_lock_of_anon_on_the_messages_does_not_delay_another_municipalitys_ticket() {
    let database = Database::realtime();
    let mut anon = database.superuser();
    anon.run("GRANT ALL ON realtime.messages TO anon");
    anon.acts_as("anon", &claims(OTHER_TENANT, "citizen"));
    anon.run("BEGIN; LOCK TABLE realtime.messages IN ACCESS EXCLUSIVE MODE");
    let mut session = database.superuser();
    session.listens_to(TENANT);
    commits_in_time(&mut session, &insert(TENANT, 1, false), 1);
    commits_in_time(
        &mut session,
        &format!("INSERT INTO tickets (tenant_id) SELECT '{TENANT}' FROM generate_series(1, 100)"),
        100,
    );
    anon.run("COMMIT");
    session.run(&insert(TENANT, 2, false));
    assert_eq!(session.warnings().len(), 0);
    assert_eq!(session.messages().len(), 1);
}

#[test]
fn a_lock_on_any_object_on_the_way_costs_the_timeout_once() {
    let partition = "(SELECT inhrelid::regclass FROM pg_inherits
        WHERE inhparent = 'realtime.messages'::regclass
          AND inhrelid::regclass::text LIKE '%' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD') || '%')";
    for lock in [
        // Today's partition, and so each insert.
        format!(
            "DO $$ BEGIN EXECUTE 'LOCK TABLE ' || {partition} || ' IN ACCESS EXCLUSIVE MODE'; END $$"
        ),
        "LOCK TABLE realtime.messages IN SHARE MODE".to_owned(),
        // A table that a trigger uses for each message: the wait is within realtime.send.
        "LOCK TABLE public.counts IN ACCESS EXCLUSIVE MODE".to_owned(),
        "SELECT pg_advisory_xact_lock(4711)".to_owned(),
    ] {
        let database = Database::realtime();
        let mut holder = database.superuser();
        holder.run(
            "CREATE TABLE public.counts (n int); GRANT ALL ON public.counts TO PUBLIC;
             CREATE FUNCTION public.counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock(4711); INSERT INTO public.counts VALUES (1); RETURN NEW;
             END $$;
             CREATE TRIGGER counts BEFORE INSERT ON realtime.messages
                 FOR EACH ROW EXECUTE FUNCTION public.counts()",
        );
        holder.run(&format!("BEGIN; {lock}"));
        let mut session = database.superuser();
        session.listens_to(TENANT);
        commits_in_time(
            &mut session,
            &format!(
                "INSERT INTO tickets (tenant_id) SELECT '{TENANT}' FROM generate_series(1, 50)"
            ),
            50,
        );
    }
}

/// Each message waits briefly for a lock that is then released: together the waits must not exceed
/// the limit.
#[test]
fn many_short_waits_add_up_to_the_timeout_and_no_further() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.listens_to(TENANT);
    session.run(
        // The rollback of its block releases the lock at once, and also one that was granted in the
        // moment of the timeout.
        "CREATE FUNCTION public.waits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             BEGIN
                 PERFORM pg_advisory_xact_lock(4711); RAISE EXCEPTION 'release';
             EXCEPTION WHEN raise_exception THEN NULL; END;
             RETURN NEW; END $$;
         CREATE TRIGGER waits BEFORE INSERT ON realtime.messages
             FOR EACH ROW EXECUTE FUNCTION public.waits();
         CREATE PROCEDURE public.holds() LANGUAGE plpgsql AS $$ BEGIN
             LOOP PERFORM pg_advisory_xact_lock(4711); PERFORM pg_sleep(0.05); COMMIT; END LOOP;
         END $$",
    );
    let mut holder = database.superuser();
    let process = holder.process();
    let holding = std::thread::spawn(move || holder.client().batch_execute("CALL public.holds()"));
    wait_until("the lock is held", || {
        session.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") == "1"
    });
    commits_in_time(
        &mut session,
        &format!("INSERT INTO tickets (tenant_id) SELECT '{TENANT}' FROM generate_series(1, 200)"),
        200,
    );
    database.superuser().run(&format!("SELECT pg_terminate_backend({process})"));
    assert!(holding.join().expect("it answers").is_err());
}

#[test]
fn the_timeout_is_a_superuser_setting() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run("SELECT civic.tenant_id()");
    assert_eq!(session.text("SHOW civic.realtime_lock_timeout"), "200ms");
    for value in ["0", "-1", "'1h'"] {
        let set = format!("SET civic.realtime_lock_timeout = {value}");
        assert_eq!(session.sqlstate(&set), "22023", "{value}");
    }
    session.run("SET ROLE authenticated");
    assert_eq!(session.sqlstate("SET civic.realtime_lock_timeout = '1s'"), "42501");
}

#[test]
fn a_longer_timeout_waits_for_a_lock_that_is_released_in_time() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run("SET civic.realtime_lock_timeout = '60s'");
    let process = session.process();
    let mut holder = database.superuser();
    holder.run("BEGIN; LOCK TABLE realtime.messages IN ACCESS EXCLUSIVE MODE");
    let waiting = std::thread::spawn(move || {
        session.run(&insert(TENANT, 1, false));
        session
    });
    crate::pg_tests::support::installation::wait_until_blocked(&database, &process);
    holder.run("COMMIT");
    let mut session = waiting.join().expect("it commits");
    assert_eq!(session.warnings().len(), 0);
    assert_eq!(session.messages().len(), 1);
}
