//! Events of the application, and the two functions that return channel and payload to SQL.

use crate::pg_tests::support::{Database, Session, TENANT, claims, literal};

fn session() -> Session {
    let mut session = Database::plain().superuser();
    session.listens_to("a");
    session
}

/// An event whose JSON, as it is sent, has this many bytes.
fn event_of(bytes: usize) -> String {
    let frame = r#"{"data":"","type":"x"}"#.len();
    format!("jsonb_build_object('type', 'x', 'data', repeat('y', {}))", bytes - frame)
}

#[test]
fn an_event_is_received_on_its_municipalitys_channel() {
    let mut session = session();
    let event = r#"{"type": "sla_breach", "data": {"hours": 48}, "ward_id": "5"}"#;
    session.run(&format!("SELECT civic.publish('a', '{event}')"));
    let received = session.heard();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].0, "ticket_updates:a");
    assert_eq!(
        session.text(&format!("SELECT {}::jsonb = '{event}'", literal(&received[0].1))),
        "t"
    );
}

#[test]
fn an_invalid_event_is_an_error_and_nothing_is_received() {
    let long = "x".repeat(49);
    let object = r#"'{"type": "x"}'"#;
    for (municipality, event, sensitive, sqlstate, message) in [
        ("'a'", "'[1]'", "false", "22023", "event must be a JSON object, not an array"),
        ("'a'", "'\"x\"'", "false", "22023", "event must be a JSON object, not a string"),
        ("'a'", "'5'", "false", "22023", "event must be a JSON object, not a number"),
        ("'a'", "'true'", "false", "22023", "event must be a JSON object, not a boolean"),
        ("'a'", "'null'", "false", "22023", "event must be a JSON object, not null"),
        ("'a'", "NULL", "false", "22023", "event must be a JSON object, not null"),
        ("'a'", "'{}'", "false", "22023", "event has no \"type\" that is a string"),
        ("'a'", r#"'{"type": 5}'"#, "false", "22023", "event has no \"type\" that is a string"),
        ("'a'", r#"'{"type": null}'"#, "false", "22023", "event has no \"type\" that is a string"),
        ("'a'", r#"'{"Type": "x"}'"#, "false", "22023", "event has no \"type\" that is a string"),
        ("''", object, "false", "22023", "municipality_id must not be empty"),
        ("NULL", object, "false", "22023", "municipality_id must not be empty"),
        (
            "'a'",
            &event_of(8000),
            "false",
            "54000",
            "event of 8000 bytes is too long, the limit is 7999",
        ),
        (
            "'a'",
            &event_of(1_000_000),
            "true",
            "54000",
            "event of 1000000 bytes is too long, the limit is 7999",
        ),
        (
            &format!("'{long}'"),
            object,
            "false",
            "54000",
            &format!("channel \"ticket_updates:{long}\" of 64 bytes is too long, the limit is 63"),
        ),
        (
            &format!("'{:.39}'", long),
            object,
            "true",
            "54000",
            &format!(
                "channel \"ticket_updates:{:.39}:sensitive\" of 64 bytes is too long, the limit is 63",
                long
            ),
        ),
    ] {
        let mut session = session();
        session.run(&format!("LISTEN \"ticket_updates:{:.39}\"", long));
        let statement = format!("SELECT civic.publish({municipality}, {event}, {sensitive})");
        let error = session.error(&statement);
        assert_eq!(error.code().code(), sqlstate, "{statement}");
        assert_eq!(error.message(), message, "{statement}");
        assert!(session.heard().is_empty(), "{statement}");
    }
}

#[test]
fn the_longest_event_and_the_longest_channel_are_accepted() {
    let mut session = session();
    session.run(&format!("SELECT civic.publish('a', {})", event_of(7999)));
    assert_eq!(session.heard()[0].1.len(), 7999);

    for (tenant_id, suffix, sensitive) in [
        ("x".repeat(48), "", "false"),
        ("x".repeat(38), ":sensitive", "true"),
        ("é".repeat(24), "", "false"),
    ] {
        let channel = format!("ticket_updates:{tenant_id}{suffix}");
        assert_eq!(channel.len(), 63);
        session.run(&format!("LISTEN \"{channel}\""));
        session.run(&format!(
            "SELECT civic.publish('{tenant_id}', '{{\"type\": \"x\"}}', {sensitive})"
        ));
        let received = session.heard();
        assert_eq!(received.last().map(|(at, _)| at), Some(&channel));
    }
}

/// A null is longer than a digit, so NOTIFY would refuse the redacted form at the commit.
#[test]
fn an_event_that_grows_when_redacted_keeps_only_the_identifying_keys() {
    let many = (0..800).map(|key| format!("\"k{key}\": 1")).collect::<Vec<_>>().join(", ");
    let event = format!("'{{\"type\": \"x\", \"ticket_id\": \"7\", {many}}}'");
    for statements in [
        format!("SELECT civic.publish('a', {event}, true)"),
        format!(
            "BEGIN; SELECT civic.publish('a', {event});
             INSERT INTO ticket VALUES (7, 'a', true); COMMIT"
        ),
    ] {
        let mut session = session();
        session.makes_ticket_table("id int, tenant_id text, is_sensitive boolean");
        session.run(&statements);
        let received = session.heard();
        let redacted = "{\"ticket_id\":\"7\",\"type\":\"x\"}";
        assert_eq!(received[0], ("ticket_updates:a".to_owned(), redacted.to_owned()));
        assert_eq!(received[1].0, "ticket_updates:a:sensitive");
        assert!(received[1].1.contains("\"k799\":1"));
    }
}

#[test]
fn numbers_keep_their_digits() {
    let mut session = session();
    session.run(
        r#"SELECT civic.publish('a', '{"type": "x", "data": [12345678901234567890123, 1.10, -0.0, 1e400]}')"#,
    );
    let payload = session.heard().remove(0).1;
    let expected =
        format!(r#"{{"data":[12345678901234567890123,1.10,0.0,1{}],"type":"x"}}"#, "0".repeat(400));
    assert_eq!(payload.replace("-0.0", "0.0"), expected);
}

#[test]
fn identical_events_are_folded_within_a_transaction_but_not_across_two() {
    let mut session = session();
    let publish = r#"SELECT civic.publish('a', '{"type": "x"}');"#;
    session.run(&format!("BEGIN; {publish} {publish} COMMIT"));
    assert_eq!(session.heard().len(), 1);
    session.run(publish);
    session.run(publish);
    assert_eq!(session.heard().len(), 2);
}

#[test]
fn an_event_is_received_at_commit_and_never_after_a_rollback() {
    let mut session = session();
    let publish = |name: &str| format!(r#"SELECT civic.publish('a', '{{"type": "{name}"}}');"#);
    session.run(&format!("BEGIN; {} ROLLBACK", publish("never")));
    session.run(&format!(
        "BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s; {}",
        publish("first"),
        publish("never"),
        publish("second")
    ));
    assert!(session.heard().is_empty());
    session.run("COMMIT");
    let types: Vec<_> = session.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(types, ["first", "second"]);
}

#[test]
fn users_can_neither_publish_nor_create_a_table_that_publishes_for_a_municipality() {
    let database = Database::supabase();
    let mut session = database.superuser();
    session.run("GRANT CREATE ON SCHEMA public TO anon, authenticated, service_role");
    for role in ["anon", "authenticated"] {
        session.acts_as(role, &claims(TENANT, "admin"));
        let publish = r#"SELECT civic.publish('a', '{"type": "x"}')"#;
        assert_eq!(session.sqlstate(publish), "42501", "{role}");
        session.run(&format!("CREATE TABLE own_{role} (tenant_id text)"));
        let trigger = format!(
            "CREATE TRIGGER tell AFTER INSERT ON own_{role}
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()"
        );
        assert_eq!(session.sqlstate(&trigger), "42501", "{role}");
        session.reset_role();
    }
}

#[test]
fn the_servers_own_role_may_publish() {
    let database = Database::supabase();
    let mut listener = database.superuser();
    listener.listens_to("a");
    let mut session = database.superuser();
    session.acts_as("service_role", "{}");
    session.run(r#"SELECT civic.publish('a', '{"type": "x"}', true)"#);
    assert_eq!(listener.heard().len(), 2);
}

#[test]
fn ticket_channel_refuses_what_notify_would_refuse() {
    let mut session = session();
    assert_eq!(session.text("SELECT civic.ticket_channel('a')"), "ticket_updates:a");
    assert_eq!(session.value("SELECT civic.ticket_channel(NULL)"), None);
    assert_eq!(session.text("SELECT length(civic.ticket_channel(repeat('x', 48)))"), "63");
    assert_eq!(session.sqlstate("SELECT civic.ticket_channel('')"), "22023");
    let error = session.error("SELECT civic.ticket_channel(repeat('x', 49))");
    assert_eq!(error.code().code(), "54000");
    assert!(error.message().ends_with("of 64 bytes is too long, the limit is 63"));
    let error = session.error("SELECT civic.ticket_channel(repeat('x', 1000000))");
    assert!(error.message().len() < 200, "a message does not repeat a megabyte");
}

#[test]
fn ticket_payload_accepts_any_object_and_nothing_else() {
    let mut session = session();
    for (operation, ticket, sqlstate) in [
        ("'INSERT'", "'[]'", "22023"),
        ("'INSERT'", "'null'", "22023"),
        ("'INSERT'", "'\"x\"'", "22023"),
        ("'TRUNCATE'", "'{}'", "22023"),
        ("''", "'{}'", "22023"),
        ("'INSERT'", "jsonb_build_object('id', repeat('x', 8000))", "54000"),
    ] {
        let statement = format!("SELECT civic.ticket_payload({operation}, {ticket})");
        assert_eq!(session.sqlstate(&statement), sqlstate, "{statement}");
    }
    assert_eq!(session.value("SELECT civic.ticket_payload(NULL, '{}')"), None);
    assert_eq!(session.value("SELECT civic.ticket_payload('INSERT', NULL)"), None);
    let payload = session.text(
        r#"SELECT civic.ticket_payload('DELETE', '{"id": 12345678901234567890123, "status": 1.10,
            "tenant_id": "a", "ward_id": null, "unknown": 1, "updated_at": "2026-01-01T00:00:00Z"}')"#,
    );
    assert_eq!(
        payload,
        r#"{"type": "DELETE", "status": 1.10, "ward_id": null, "category": null, "ticket_id": "12345678901234567890123", "updated_at": 1767225600.000000, "is_sensitive": null, "municipality_id": "a", "tracking_number": null}"#
    );
    let truncated = "SELECT civic.ticket_payload('INSERT', jsonb_build_object('id', 1, 'status', repeat('x', 8000)))";
    assert_eq!(session.text(&format!("{truncated} ->> 'truncated'")), "true");
}

#[test]
fn deeply_nested_json_is_an_error_and_not_a_crash() {
    let mut session = session();
    let deep =
        r#"('{"type": "x", "data": ' || repeat('[', 5000) || repeat(']', 5000) || '}')::jsonb"#;
    session.error(&format!("SELECT civic.publish('a', {deep})"));
    session.error(&format!("SELECT civic.ticket_payload('INSERT', {deep})"));
    assert_eq!(session.text("SELECT civic.ticket_channel('a')"), "ticket_updates:a");
    session.makes_ticket_table("tenant_id text, status jsonb");
    session.run(&format!("INSERT INTO ticket VALUES ('a', {deep})"));
    assert_eq!(session.events().len(), 1, "the trigger still publishes it");
}
