//! Through Realtime too, no event of a ticket that becomes sensitive in its transaction reaches the
//! shared topic whole, and changes of tickets by code on the table of messages are published.

use serde_json::{Value, json};

use crate::pg_tests::support::{Database, Session, TENANT};

const SHARED: &str = "ticket_updates:00000000-0000-0000-0000-000000000001";
const SENSITIVE: &str = "ticket_updates:00000000-0000-0000-0000-000000000001:sensitive";

#[test]
fn realtime_stores_only_settled_events() {
    for mode in ["redacted", "restricted", "full"] {
        let database = Database::realtime();
        let mut session = database.superuser();
        session.run(&format!("SET civic.sensitive_events = '{mode}'"));
        session.run(&format!(
            "BEGIN; INSERT INTO tickets (tenant_id, tracking_number, category, is_sensitive)
                 VALUES ('{TENANT}', 'TKT-1', 'gbv', false), ('{TENANT}', 'TKT-2', 'water', false);
             UPDATE tickets SET is_sensitive = true WHERE tracking_number = 'TKT-1'; COMMIT"
        ));
        let stored: Vec<_> = session.published("category");
        let (shared, sensitive) =
            (|value| (SHARED.to_owned(), value), (SENSITIVE.to_owned(), json!("gbv")));
        let expected = match mode {
            "redacted" => vec![
                shared(Value::Null),
                sensitive.clone(),
                shared(json!("water")),
                shared(Value::Null),
                sensitive,
            ],
            "restricted" => vec![sensitive.clone(), shared(json!("water")), sensitive],
            _ => vec![shared(json!("gbv")), shared(json!("water")), shared(json!("gbv"))],
        };
        assert_eq!(stored, expected, "{mode}");
        assert_eq!(session.warnings().len(), 0, "{mode}");
    }
}

/// A trigger on Realtime's table of messages changes tickets while the commit sends.
fn trigger_on_messages(session: &mut Session, change: &str) {
    session.run(&format!(
        "GRANT SELECT, UPDATE ON tickets TO supabase_realtime_admin;
         CREATE FUNCTION public.meddles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             {change} RETURN NEW; END $$;
         CREATE TRIGGER meddles BEFORE INSERT ON realtime.messages
             FOR EACH ROW EXECUTE FUNCTION public.meddles()"
    ));
}

const INSERT_WATER: &str = "INSERT INTO tickets (tenant_id, category, status, is_sensitive)
    VALUES ('00000000-0000-0000-0000-000000000001', 'water', 'open', false)";

#[test]
fn a_trigger_of_realtime_cannot_make_a_ticket_sensitive_after_it_was_sent_whole() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.listens_to(TENANT);
    trigger_on_messages(
        &mut session,
        "UPDATE public.tickets SET is_sensitive = true WHERE NOT is_sensitive;",
    );
    session.run(INSERT_WATER);
    // The message and the trigger's changes are rolled back together.
    assert_eq!(session.messages(), []);
    assert_eq!(session.text("SELECT is_sensitive FROM tickets"), "f");
    let events = session.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["category"], json!("water"));
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message().starts_with("1 event was not sent to Supabase Realtime"));
}

#[test]
fn a_ticket_that_a_trigger_of_realtime_changes_is_published_too() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.listens_to(TENANT);
    trigger_on_messages(
        &mut session,
        "UPDATE public.tickets SET status = 'sent' WHERE status = 'open';",
    );
    session.run(INSERT_WATER);
    let statuses: Vec<_> =
        session.published("status").into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, ["open", "sent"]);
    let statuses: Vec<_> = session.events().iter().map(|event| event["status"].clone()).collect();
    assert_eq!(statuses, ["open", "sent"]);
    assert_eq!(session.warnings().len(), 0);
}

#[test]
fn a_trigger_of_realtime_that_changes_tickets_endlessly_is_stopped() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.listens_to(TENANT);
    trigger_on_messages(&mut session, "UPDATE public.tickets SET status = status || '.';");
    session.run(INSERT_WATER);
    let received = session.heard().len();
    let stored = session.messages().len();
    assert!(
        stored >= 2 && received > stored && received < 100,
        "stored {stored}, received {received}"
    );
    assert_eq!(session.warnings().len(), 1);
}
