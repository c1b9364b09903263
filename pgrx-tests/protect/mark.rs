//! civic.mark_sensitive().

use super::{CITIZEN, NEIGHBOUR, WORKER, outcome, session_of, tickets};
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims_of};

fn mark(number: i32) -> String {
    format!("SELECT civic.mark_sensitive(ticket(1, {number})::text)")
}

#[track_caller]
fn is_sensitive(database: &Database, number: i32) -> bool {
    let sql = format!("SELECT is_sensitive FROM tickets WHERE id = ticket(1, {number})");
    database.superuser().text(&sql) == "t"
}

/// The new row must be one that the writer reads.
#[test]
fn a_manager_cannot_mark_a_ticket_by_an_ordinary_update() {
    let database = Database::protected();
    let mut manager = session_of(&database, CITIZEN, "manager");
    let update = "UPDATE tickets SET is_sensitive = true WHERE id = ticket(1, 1)";
    assert_eq!(outcome(&mut manager, update).as_deref(), Some("42501"));
    manager.run(&mark(1));
    assert!(is_sensitive(&database, 1));
    assert_eq!(tickets(&mut manager), [2, 4, 6], "it has vanished from the manager's sight");
    let mut liaison = session_of(&database, CITIZEN, "saps_liaison");
    assert_eq!(tickets(&mut liaison).len(), 7);
}

#[test]
fn staff_mark_the_tickets_that_they_see_and_nobody_else_does() {
    let database = Database::protected();
    let may = |session: &mut Session, number| match outcome(session, &mark(number)).as_deref() {
        None => true,
        Some("PT404") => false,
        Some(other) => panic!("{other}"),
    };
    for (user, role, number, expected) in [
        (CITIZEN, "ward_councillor", 1, true),
        (CITIZEN, "MANAGER", 4, true),
        (CITIZEN, "executive_mayor", 1, true),
        (WORKER, "field_worker", 6, true),
        (WORKER, "field_worker", 1, false),
        (WORKER, "field_worker", 7, false),
        (CITIZEN, "citizen", 1, false),
        (NEIGHBOUR, "citizen", 4, false),
        (CITIZEN, "manager", 3, false),
        (CITIZEN, "admin", 3, true),
        (CITIZEN, "saps_liaison", 5, true),
        (CITIZEN, "manager", 9, false),
    ] {
        let mut session = session_of(&database, user, role);
        assert_eq!(may(&mut session, number), expected, "{role} {number}");
    }
    let mut stranger = database.authenticated(&claims_of(CITIZEN, OTHER_TENANT, "admin"));
    assert!(!may(&mut stranger, 1));
    let mut nobody = database.authenticated("");
    assert!(!may(&mut nobody, 1));
}

#[test]
fn the_answer_for_a_hidden_ticket_is_that_for_none() {
    let database = Database::protected();
    let mut manager = session_of(&database, CITIZEN, "manager");
    let mut message = |ticket: &str| {
        let error = manager.error(&format!("SELECT civic.mark_sensitive({ticket})"));
        error.message().replace(ticket, "")
    };
    let text = |id: &str| format!("'{id}'");
    let hidden = message(&text("20000000-0000-4000-8000-000000000003"));
    let none = message(&text("20000000-0000-4000-8000-00000000ffff"));
    let other = message(&text("30000000-0000-4000-8000-000000000001"));
    let shape = |message: &str| message.split('"').next().unwrap().to_owned();
    assert_eq!(shape(&hidden), shape(&none));
    assert_eq!(shape(&hidden), shape(&other));
}

#[test]
fn marking_is_an_ordinary_change_to_the_trigger() {
    let database = Database::protected();
    let mut listener = database.superuser();
    listener.listens_to(TENANT);
    let mut manager = session_of(&database, CITIZEN, "manager");
    manager.run(&mark(1));
    let events = listener.events();
    assert_eq!(events.len(), 2, "redacted on the shared channel, whole on the other: {events:?}");
    assert!(events.iter().all(|event| event["is_sensitive"] == true), "{events:?}");
    assert_eq!(events.iter().filter(|event| event["tracking_number"] == "TKT-1-1").count(), 1);
    // Its files are moved.
    let jobs = "SELECT count(*) FROM civic.media_jobs WHERE kind = 'restrict'";
    assert_eq!(database.superuser().text(jobs), "1");
    // Once more is no change.
    let mut admin = session_of(&database, CITIZEN, "admin");
    admin.run(&mark(1));
    assert_eq!(listener.events(), Vec::<serde_json::Value>::new());
}

#[test]
fn code_on_the_table_runs_as_its_owner() {
    let database = Database::protected();
    let owner = database.role("owner", "");
    let mut superuser = database.superuser();
    superuser.run(&format!(
        "ALTER TABLE tickets OWNER TO {owner}; GRANT USAGE ON SCHEMA public TO {owner};
         CREATE TABLE seen (who text); GRANT ALL ON seen TO PUBLIC;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NEW; END $$;
         CREATE TRIGGER note AFTER UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION note()"
    ));
    let mut manager = session_of(&database, CITIZEN, "manager");
    manager.run(&mark(1));
    assert_eq!(superuser.column("SELECT who FROM seen"), [owner]);
}

#[test]
fn a_table_whose_row_security_is_forced_is_refused() {
    let database = Database::protected();
    let owner = database.role("owner", "");
    database.superuser().run(&format!(
        "ALTER TABLE tickets OWNER TO {owner}; ALTER TABLE tickets FORCE ROW LEVEL SECURITY;
         GRANT USAGE ON SCHEMA public TO {owner}"
    ));
    let mut manager = session_of(&database, CITIZEN, "manager");
    assert_eq!(manager.sqlstate(&mark(1)), "55000");
}

#[test]
fn only_users_call_it() {
    let database = Database::protected();
    let mut session = database.superuser();
    for role in ["anon", "service_role"] {
        session.acts_as(role, &claims_of(CITIZEN, TENANT, "admin"));
        assert_eq!(session.sqlstate(&mark(1)), "42501", "{role}");
    }
    session.acts_as("authenticated", &claims_of(CITIZEN, TENANT, "admin"));
    assert_eq!(session.sqlstate("SELECT civic.mark_sensitive(NULL)"), "22023");
}
