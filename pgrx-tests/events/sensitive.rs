//! What each channel receives of sensitive tickets.

use crate::pg_tests::support::{Database, Session, TENANT};

const SHARED: &str = "ticket_updates:00000000-0000-0000-0000-000000000001";
const SENSITIVE: &str = "ticket_updates:00000000-0000-0000-0000-000000000001:sensitive";

/// A table with every column. This session writes to it and listens to both channels.
fn session(mode: &str) -> Session {
    let mut session = Database::plain().superuser();
    session.listens_to(TENANT);
    session.run(&format!("SET civic.sensitive_events = '{mode}'"));
    session.makes_ticket_table(
        "id int, tenant_id text, tracking_number text, status text, category text, ward_id text,
         is_sensitive boolean, updated_at timestamptz DEFAULT '2026-01-01 00:00Z'",
    );
    session
}

/// The whole event of the ticket below, and the part that the shared channel may receive.
fn payload(operation: &str, is_sensitive: bool, is_whole: bool) -> String {
    let value = |text: &str| if is_whole { format!("\"{text}\"") } else { "null".to_owned() };
    format!(
        r#"{{"type":"{operation}","ticket_id":"7","tracking_number":{},"status":{},"category":{},"municipality_id":"{TENANT}","ward_id":{},"is_sensitive":{is_sensitive},"updated_at":1767225600.000000}}"#,
        value("TKT-SECRET"),
        value("escalated"),
        value("gbv"),
        value("Ward 5"),
    )
}

#[test]
fn each_mode_sends_each_channel_exactly_what_it_may_receive() {
    for mode in ["redacted", "restricted", "full"] {
        for is_sensitive in [true, false] {
            let mut session = session(mode);
            for (operation, statement) in [
                (
                    "INSERT",
                    format!(
                        "INSERT INTO ticket VALUES (7, '{TENANT}', 'TKT-SECRET', 'escalated', 'gbv',
                                                    'Ward 5', {is_sensitive})"
                    ),
                ),
                ("UPDATE", "UPDATE ticket SET id = id".to_owned()),
                ("DELETE", "DELETE FROM ticket".to_owned()),
            ] {
                session.run(&statement);
                let whole = payload(operation, is_sensitive, true);
                let redacted = payload(operation, is_sensitive, false);
                let expected = match (mode, is_sensitive) {
                    ("redacted", true) => vec![(SHARED, redacted), (SENSITIVE, whole)],
                    ("restricted", true) => vec![(SENSITIVE, whole)],
                    _ => vec![(SHARED, whole)],
                };
                let expected: Vec<_> =
                    expected.into_iter().map(|(at, event)| (at.to_owned(), event)).collect();
                assert_eq!(
                    session.heard(),
                    expected,
                    "{mode}, sensitive {is_sensitive}, {operation}"
                );
            }
            assert!(session.warnings().is_empty());
        }
    }
}

#[test]
fn redacted_is_the_default_mode() {
    let mut session = Database::plain().superuser();
    session.run("SELECT civic.tenant_id()");
    assert_eq!(session.text("SHOW civic.sensitive_events"), "redacted");
    assert_eq!(session.sqlstate("SET civic.sensitive_events = 'open'"), "22023");
}

#[test]
fn only_a_superuser_can_open_the_shared_channel() {
    let database = Database::guarded();
    let mut listener = database.superuser();
    listener.listens_to(TENANT);
    let mut session = database.superuser();
    session.run("GRANT INSERT ON tickets TO authenticated; SET ROLE authenticated");
    // Before the extension's library is loaded any name can be set; the value is discarded later.
    session.run("SET civic.sensitive_events = 'full'; SELECT civic.tenant_id()");
    assert_eq!(session.warnings()[0].code().code(), "42501");
    for statement in [
        "SET civic.sensitive_events = 'full'",
        "SET LOCAL civic.sensitive_events = 'full'",
        "SELECT set_config('civic.sensitive_events', 'full', false)",
        "UPDATE pg_settings SET setting = 'full' WHERE name = 'civic.sensitive_events'",
        "CREATE FUNCTION pg_temp.open() RETURNS void LANGUAGE sql
             SET civic.sensitive_events = 'full' AS ''",
    ] {
        assert_eq!(session.sqlstate(statement), "42501", "{statement}");
    }
    session.run(&format!(
        "INSERT INTO tickets (tenant_id, category, is_sensitive) VALUES ('{TENANT}', 'gbv', true)"
    ));
    let received = listener.heard();
    assert_eq!(received.len(), 2);
    assert!(
        received.iter().all(|(at, event)| at == SENSITIVE || !event.contains("gbv")),
        "{received:?}"
    );
}

#[test]
fn a_changed_mode_applies_from_the_next_row_and_as_long_as_it_is_set() {
    let mut session = session("redacted");
    let insert =
        format!("INSERT INTO ticket VALUES (1, '{TENANT}', NULL, NULL, 'gbv', NULL, true);");
    let mut channels = |statements: &str| {
        session.run(statements);
        session.heard().into_iter().map(|(at, _)| at).collect::<Vec<_>>()
    };
    assert_eq!(channels(&insert), [SHARED, SENSITIVE]);
    let local = format!("BEGIN; SET LOCAL civic.sensitive_events = 'restricted'; {insert} COMMIT");
    assert_eq!(channels(&local), [SENSITIVE]);
    assert_eq!(channels(&insert), [SHARED, SENSITIVE]);
    assert_eq!(channels(&format!("SET civic.sensitive_events = 'full'; {insert}")), [SHARED]);
    assert_eq!(channels(&format!("RESET civic.sensitive_events; {insert}")), [SHARED, SENSITIVE]);
}

#[test]
fn every_value_that_is_not_plainly_no_is_sensitive() {
    for (type_name, value, is_sensitive) in [
        ("boolean", "NULL", true),
        ("boolean", "true", true),
        ("boolean", "false", false),
        ("text", "'true'", true),
        ("text", "'False'", false),
        ("text", "'no'", false),
        ("text", "'perhaps'", true),
        ("text", "''", true),
        ("text", "repeat('f', 10000)", true),
        ("int", "0", false),
        ("int", "1", true),
        ("int", "-1", true),
        ("numeric", "0", false),
        ("numeric", "'NaN'", true),
        ("float8", "0", false),
        ("jsonb", "'false'", false),
        ("jsonb", "'\"false\"'", false),
        ("jsonb", "'null'", true),
        ("jsonb", "'{}'", true),
        ("char(1)", "'N'", false),
        ("char(1)", "'Y'", true),
        ("boolean[]", "'{f}'", true),
    ] {
        let mut session = Database::plain().superuser();
        session.listens_to(TENANT);
        session.makes_ticket_table(&format!(
            "tenant_id text, category text, is_sensitive {type_name}"
        ));
        session.run(&format!("INSERT INTO ticket VALUES ('{TENANT}', 'gbv', {value})"));
        let received = session.heard();
        let case = format!("{value}::{type_name} {received:?}");
        assert_eq!(received.len(), if is_sensitive { 2 } else { 1 }, "{case}");
        assert_eq!(received[0].0, SHARED, "{case}");
        assert_eq!(received[0].1.contains("gbv"), !is_sensitive, "{case}");
    }
}

#[test]
fn a_table_without_the_column_has_no_sensitive_tickets() {
    let mut session = Database::plain().superuser();
    session.listens_to(TENANT);
    session.makes_ticket_table("tenant_id text, category text");
    session.run(&format!("INSERT INTO ticket VALUES ('{TENANT}', 'water')"));
    let received = session.heard();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].0, SHARED);
}

#[test]
fn a_truncated_event_goes_to_the_channels_of_the_whole_one() {
    for (mode, expected) in [
        ("redacted", vec![(SHARED, false), (SENSITIVE, true)]),
        ("restricted", vec![(SENSITIVE, true)]),
        ("full", vec![(SHARED, true)]),
    ] {
        let mut session = session(mode);
        session.run(&format!(
            "INSERT INTO ticket VALUES (7, '{TENANT}', 'TKT-SECRET', repeat('x', 8000), 'gbv',
                                        'Ward 5', true)"
        ));
        let received = session.heard();
        assert_eq!(received.len(), expected.len(), "{mode}");
        for ((channel, payload), (expected_channel, is_truncated)) in received.iter().zip(expected)
        {
            assert_eq!(channel, expected_channel, "{mode}");
            assert!(!payload.contains("TKT-SECRET") && !payload.contains("gbv"), "{mode}");
            assert_eq!(
                payload.ends_with(r#","truncated":true}"#),
                is_truncated,
                "{mode} {channel}"
            );
        }
    }
}

#[test]
fn a_municipality_too_long_for_the_sensitive_channel_still_receives_on_the_shared_one() {
    let tenant_id = "x".repeat(40);
    for (mode, is_heard) in [("redacted", true), ("restricted", false)] {
        let mut session = session(mode);
        session.run(&format!("LISTEN \"ticket_updates:{tenant_id}\""));
        session.run(&format!(
            "INSERT INTO ticket VALUES (7, '{tenant_id}', 'TKT-SECRET', 'open', 'gbv', 'Ward 5', true)"
        ));
        let received = session.heard();
        assert_eq!(received.len(), usize::from(is_heard), "{mode}");
        assert!(received.iter().all(|(_, payload)| !payload.contains("gbv")), "{mode}");
        let warnings = session.warnings();
        assert_eq!(warnings.len(), 1, "{mode}");
        assert!(warnings[0].message().contains("65 bytes is too long, the limit is 63"));
        assert!(!format!("{warnings:?}").contains("TKT-SECRET"));
        assert_eq!(session.text("SELECT count(*) FROM ticket"), "1");
    }
}

#[test]
fn a_ticket_that_becomes_sensitive_is_published_as_sensitive_from_then_on() {
    let mut session = session("redacted");
    session.run(&format!(
        "INSERT INTO ticket VALUES (7, '{TENANT}', 'TKT-SECRET', 'escalated', 'gbv', 'Ward 5', false)"
    ));
    session.heard();
    session.run("UPDATE ticket SET is_sensitive = true");
    let received = session.heard();
    assert_eq!(received[0], (SHARED.to_owned(), payload("UPDATE", true, false)));
    assert_eq!(received[1], (SENSITIVE.to_owned(), payload("UPDATE", true, true)));
}

#[test]
fn an_event_of_the_application_is_redacted_to_its_identifying_scalars() {
    let publish = |sensitive: &str| {
        format!(
            r#"SELECT civic.publish('{TENANT}', '{{"type": "sla_breach", "ticket_id": "7",
                "municipality_id": {{"name": "Jane"}}, "is_sensitive": true, "updated_at": 1.10,
                "ward_id": "Ward 5", "status": "open", "data": {{"name": "Jane"}}}}'{sensitive})"#
        )
    };
    let whole = r#"{"data":{"name":"Jane"},"is_sensitive":true,"municipality_id":{"name":"Jane"},"status":"open","ticket_id":"7","type":"sla_breach","updated_at":1.10,"ward_id":"Ward 5"}"#;
    let redacted = r#"{"data":null,"is_sensitive":true,"municipality_id":null,"status":null,"ticket_id":"7","type":"sla_breach","updated_at":1.10,"ward_id":null}"#;
    for (mode, sensitive, expected) in [
        ("redacted", ", true", vec![(SHARED, redacted), (SENSITIVE, whole)]),
        ("redacted", ", NULL", vec![(SHARED, redacted), (SENSITIVE, whole)]),
        ("restricted", ", true", vec![(SENSITIVE, whole)]),
        ("full", ", true", vec![(SHARED, whole)]),
        ("redacted", ", false", vec![(SHARED, whole)]),
        ("restricted", "", vec![(SHARED, whole)]),
    ] {
        let mut session = session(mode);
        session.run(&publish(sensitive));
        let expected: Vec<_> =
            expected.into_iter().map(|(at, event)| (at.to_owned(), event.to_owned())).collect();
        assert_eq!(session.heard(), expected, "{mode}{sensitive}");
    }
}
