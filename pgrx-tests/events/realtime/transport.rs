//! Each event is one private broadcast.

use serde_json::{Value, json};

use super::insert;
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, claims};

fn topic(tenant_id: &str) -> String {
    format!("ticket_updates:{tenant_id}")
}

fn count(session: &mut Session) -> String {
    session.text("SELECT count(*) FROM realtime.messages")
}

#[test]
fn a_ticket_is_a_private_broadcast_with_the_payload_of_notify() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.listens_to(TENANT);
    session.run(&insert(TENANT, 1, false));
    session.run("UPDATE tickets SET status = 'closed', updated_at = now()");
    let received = session.events();
    let messages = session.messages();
    assert_eq!(received.len(), 2);
    assert_eq!(messages.len(), 2);
    for ((told_at, event, mut payload), received) in messages.into_iter().zip(received) {
        assert_eq!(told_at, topic(TENANT));
        assert_eq!(received["type"], json!(event));
        // Realtime adds its own key.
        assert!(payload.as_object_mut().unwrap().remove("id").is_some());
        assert_eq!(payload, received);
    }
    assert_eq!(session.warnings().len(), 0);
}

#[test]
fn a_sensitive_ticket_is_redacted_on_the_shared_topic() {
    let mut session = Database::realtime().superuser();
    session.run(&insert(TENANT, 1, true));
    assert_eq!(
        session.published("category"),
        [(topic(TENANT), Value::Null), (topic(TENANT) + ":sensitive", json!("gbv"))]
    );
}

#[test]
fn an_event_of_the_application_is_a_broadcast_named_by_its_type() {
    let mut session = Database::realtime().superuser();
    session.run(r#"SELECT civic.publish('t1', '{"data": {"hours": 4}, "type": "sla_breach"}')"#);
    let (told_at, event, payload) = session.messages().remove(0);
    assert_eq!((told_at.as_str(), event.as_str()), ("ticket_updates:t1", "sla_breach"));
    assert_eq!(payload["data"], json!({"hours": 4}));
}

#[test]
fn messages_are_in_the_order_of_the_changes_and_none_is_folded() {
    let mut session = Database::realtime().superuser();
    let publish = r#"SELECT civic.publish('t1', '{"type": "again"}');"#;
    session.run(&format!(
        "BEGIN; {} {publish} {} {publish} UPDATE tickets SET status = 'closed'; COMMIT",
        insert(TENANT, 1, false),
        insert(OTHER_TENANT, 2, false)
    ));
    let events: Vec<_> = session.messages().into_iter().map(|(_, event, _)| event).collect();
    assert_eq!(events, ["INSERT", "again", "INSERT", "again", "UPDATE", "UPDATE"]);
}

#[test]
fn a_rolled_back_change_is_not_sent() {
    let mut session = Database::realtime().superuser();
    session.run(&format!("BEGIN; {} ROLLBACK", insert(TENANT, 1, false)));
    session.run(&format!(
        "BEGIN; {} SAVEPOINT s; {} SAVEPOINT t; {} RELEASE t; ROLLBACK TO s; {} SAVEPOINT u; {}
         RELEASE u; COMMIT",
        insert(TENANT, 2, false),
        insert(TENANT, 3, false),
        insert(TENANT, 4, false),
        insert(TENANT, 5, false),
        insert(TENANT, 6, false)
    ));
    let published: Vec<_> =
        session.published("tracking_number").into_iter().map(|(_, value)| value).collect();
    assert_eq!(published, ["TKT-2", "TKT-5", "TKT-6"]);
}

#[test]
fn nothing_is_stored_before_the_commit_and_the_sessions_topic_does_not_change() {
    let mut session = Database::realtime().superuser();
    session.run("SET realtime.topic = 'mine'");
    session.run(&format!("BEGIN; {}", insert(TENANT, 1, false)));
    assert_eq!(count(&mut session), "0");
    assert_eq!(session.text("SELECT realtime.topic()"), "mine");
    session.run("COMMIT");
    assert_eq!(count(&mut session), "1");
    assert_eq!(session.text("SELECT realtime.topic()"), "mine");
}

#[test]
fn the_setting_chooses_the_transport() {
    let mut session = Database::realtime().superuser();
    session.listens_to(TENANT);
    let mut expected = 0;
    for (number, (transport, notified, stored)) in [
        ("auto", 1, 1),
        ("notify", 1, 0),
        ("realtime", 0, 1),
        ("notify, realtime", 1, 1),
        ("Realtime,Notify", 1, 1),
        ("none", 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        session.run(&format!("SET civic.event_transport = '{transport}'"));
        session.run(&insert(TENANT, number as u32, false));
        expected += stored;
        assert_eq!(session.heard().len(), notified, "{transport}");
        assert_eq!(session.messages().len(), expected, "{transport}");
        assert_eq!(session.warnings().len(), 0, "{transport}");
    }
    for value in ["", "websocket", "auto, notify", "notify,"] {
        assert_eq!(session.sqlstate(&format!("SET civic.event_transport = '{value}'")), "22023");
    }
}

#[test]
fn without_realtime_auto_means_notify_only() {
    let mut session = Database::guarded().superuser();
    session.listens_to(TENANT);
    session.run(&insert(TENANT, 1, false));
    assert_eq!(session.heard().len(), 1);
    assert_eq!(session.warnings().len(), 0);
}

#[test]
fn a_change_by_any_role_is_published_and_gives_the_role_no_rights() {
    let database = Database::realtime();
    database.superuser().run(
        "GRANT SELECT, INSERT, UPDATE ON tickets TO anon, authenticated, service_role;
         REVOKE ALL ON realtime.messages FROM anon, authenticated, service_role;
         REVOKE ALL ON SCHEMA realtime FROM anon, authenticated, service_role",
    );
    let plain = database.role("plain", "");
    database.superuser().run(&format!("GRANT INSERT ON tickets TO {plain}"));
    for (number, role) in ["anon", "authenticated", "service_role", &plain].into_iter().enumerate()
    {
        let mut session = database.superuser();
        session.acts_as(role, &claims(TENANT, "citizen"));
        session.run(&insert(TENANT, number as u32, false));
        assert_eq!(session.warnings().len(), 0, "{role}");
        assert_eq!(session.text("SELECT current_user"), role);
        assert_eq!(session.sqlstate("SELECT * FROM realtime.messages"), "42501", "{role}");
        assert_eq!(database.superuser().messages().len(), number + 1, "{role}");
    }
}

#[test]
fn a_prepared_transaction_is_published_if_only_realtime_is_used() {
    let mut session = Database::realtime().superuser();
    session.run("SET civic.event_transport = realtime");
    session.run(&format!("BEGIN; {} PREPARE TRANSACTION 'p'", insert(TENANT, 1, false)));
    assert_eq!(count(&mut session), "0");
    session.run("COMMIT PREPARED 'p'");
    assert_eq!(count(&mut session), "1");
}

#[test]
fn a_procedure_that_commits_publishes_at_each_commit() {
    let mut session = Database::realtime().superuser();
    session.run(&format!(
        "CREATE PROCEDURE files() LANGUAGE plpgsql AS $$ BEGIN
             {} COMMIT; {} ROLLBACK; {} END $$",
        insert(TENANT, 1, false),
        insert(TENANT, 2, false),
        insert(TENANT, 3, false)
    ));
    session.run("CALL files()");
    let published: Vec<_> =
        session.published("tracking_number").into_iter().map(|(_, value)| value).collect();
    assert_eq!(published, ["TKT-1", "TKT-3"]);
}

#[test]
fn a_change_by_a_deferred_trigger_is_published_too() {
    let mut session = Database::realtime().superuser();
    session.run(
        "CREATE FUNCTION closes() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE tickets SET status = 'closed' WHERE id = NEW.id; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER closes AFTER INSERT ON tickets DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION closes()",
    );
    session.run(&insert(TENANT, 1, false));
    let published: Vec<_> =
        session.published("status").into_iter().map(|(_, value)| value).collect();
    assert_eq!(published, ["open", "closed"]);
}

#[test]
fn the_day_of_a_message_is_in_utc_in_any_time_zone() {
    let mut session = Database::realtime().superuser();
    for zone in ["Pacific/Kiritimati", "Etc/GMT+12", "Africa/Johannesburg"] {
        session.run(&format!("SET timezone = '{zone}'; {}", insert(TENANT, 1, false)));
        let age = "SELECT bool_and(abs(extract(epoch FROM now() AT TIME ZONE 'UTC' - inserted_at)) < 3600)
                   FROM realtime.messages";
        assert_eq!(session.text(age), "t", "{zone}");
        assert_eq!(session.text("SHOW timezone"), zone);
        session.run("DELETE FROM tickets");
        session.run("DELETE FROM realtime.messages");
    }
}

#[test]
fn a_large_transaction_is_published_whole() {
    let mut session = Database::realtime().superuser();
    session.run("SET civic.bulk_after = 0");
    session.run(&format!(
        "INSERT INTO tickets (tenant_id, tracking_number) SELECT '{TENANT}', n FROM generate_series(1, 3000) n"
    ));
    let published: Vec<_> =
        session.published("tracking_number").into_iter().map(|(_, value)| value).collect();
    assert_eq!(published, (1..=3000).map(|n| json!(n.to_string())).collect::<Vec<_>>());
}
