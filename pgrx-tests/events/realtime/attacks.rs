//! Code of other roles on the way to Realtime has no lasting effect.

use super::insert;
use crate::pg_tests::support::{Database, Session, TENANT, wait_until};

/// Creates a trigger on the table of messages, and fires it.
fn tricked(session: &mut Session, body: &str) {
    session.run(&format!(
        "CREATE FUNCTION public.tricks() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN {body} RETURN NEW; END $$;
         CREATE TRIGGER tricks BEFORE INSERT ON realtime.messages
             FOR EACH ROW EXECUTE FUNCTION public.tricks()"
    ));
    session.run(&insert(TENANT, 1, false));
}

#[test]
fn the_owner_of_the_messages_cannot_change_the_writers_settings() {
    for scope in ["SESSION", "LOCAL"] {
        let database = Database::realtime();
        let mut session = database.superuser();
        session.run("SET search_path = public; SET statement_timeout = '1min'; BEGIN");
        tricked(
            &mut session,
            &format!("SET {scope} search_path = realtime; SET {scope} statement_timeout = 0;"),
        );
        session.run("COMMIT");
        assert_eq!(session.messages().len(), 1, "{scope}");
        assert_eq!(session.text("SHOW search_path"), "public", "{scope}");
        assert_eq!(session.text("SHOW statement_timeout"), "1min", "{scope}");
    }
}

#[test]
fn a_trigger_that_catches_its_own_errors_loses_no_event() {
    let database = Database::realtime();
    let mut session = database.superuser();
    tricked(&mut session, "BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN END;");
    session.run(&format!(
        "INSERT INTO tickets (tenant_id) SELECT '{TENANT}' FROM generate_series(2, 25)"
    ));
    assert_eq!(session.warnings().len(), 0);
    assert_eq!(session.messages().len(), 25);
}

#[test]
fn a_ticket_does_not_wait_for_the_catalog_of_policies() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run(&insert(TENANT, 1, false));
    let mut holder = database.superuser();
    holder.run("BEGIN; LOCK TABLE pg_catalog.pg_policy");
    // Another session reads the table's policies at its first access.
    let mut session = database.superuser();
    session.run("SET lock_timeout = '100ms'");
    session.run(&insert(TENANT, 2, false));
    assert_eq!(session.text("SELECT count(*) FROM tickets"), "2");
    assert_eq!(session.warnings().len(), 1);
}

#[test]
fn a_session_terminated_while_it_looks_up_realtime_keeps_no_lock() {
    let database = Database::realtime();
    let mut session = database.superuser();
    // The INSERT's own lookups are cached from here on; those for Realtime are not.
    session.run("SET civic.event_transport = 'notify'");
    session.run(&insert(TENANT, 1, false));
    session.run("SET civic.event_transport = 'auto'");
    let process = session.process();
    let mut admin = database.superuser();
    admin.run("SELECT count(*) FROM tickets");
    admin.run("BEGIN; LOCK TABLE pg_catalog.pg_namespace");
    let waiting =
        std::thread::spawn(move || session.client().batch_execute(&insert(TENANT, 2, false)));
    wait_until_waits(&mut admin, &process);
    admin.run(&format!("SELECT pg_terminate_backend({process})"));
    assert!(waiting.join().expect("no panic").is_err());
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
    wait_until("it is gone", || admin.text(&left) == "0");
    admin.run("COMMIT; SET lock_timeout = '1min'");
    admin.run("BEGIN; LOCK TABLE tickets; COMMIT");
    // The two views are read one after the other, so a session that ends meanwhile is seen once.
    let dead = "SELECT count(*) FROM pg_locks l
                WHERE l.pid IS NULL OR NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid)";
    wait_until("no lock is left of a process that is gone", || admin.text(dead) == "0");
}

/// Runs in an existing session, because a new one would wait for the lock.
fn wait_until_waits(admin: &mut Session, process: &str) {
    let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {process} AND NOT granted");
    wait_until("it waits", || admin.text(&waits) == "1");
}
