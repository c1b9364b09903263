//! Deletes, and moves of a ticket to another municipality: the one that loses it receives a DELETE.

use serde_json::{Value, json};

use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT};

const OLD: &str = "ticket_updates:00000000-0000-0000-0000-000000000001";
const OLD_SENSITIVE: &str = "ticket_updates:00000000-0000-0000-0000-000000000001:sensitive";
const NEW: &str = "ticket_updates:00000000-0000-0000-0000-000000000002";
const NEW_SENSITIVE: &str = "ticket_updates:00000000-0000-0000-0000-000000000002:sensitive";

/// The application's table with the trigger of `setup()`, and a session that listens to both municipalities.
fn session() -> Session {
    let mut session = Database::guarded().superuser();
    session.listens_to(TENANT);
    session.listens_to(OTHER_TENANT);
    session
}

fn insert(number: u32, is_sensitive: bool) -> String {
    format!(
        "INSERT INTO tickets (tenant_id, tracking_number, category, status, is_sensitive)
         VALUES ('{TENANT}', 'TKT-{number}', 'pipe', 'open', {is_sensitive});"
    )
}

fn move_to(tenant_id: &str) -> String {
    format!("UPDATE tickets SET tenant_id = '{tenant_id}';")
}

/// Channel, type, municipality and category of each event.
type Seen = (String, String, Value, Value);

fn seen(session: &mut Session) -> Vec<Seen> {
    let parse = |(channel, payload): (String, String)| {
        let event: Value = serde_json::from_str(&payload).expect("JSON");
        let kind = event["type"].as_str().expect("a type").to_owned();
        (channel, kind, event["municipality_id"].clone(), event["category"].clone())
    };
    session.heard().into_iter().map(parse).collect()
}

fn event(channel: &str, kind: &str, is_whole: bool) -> Seen {
    let municipality_id = if channel.starts_with(OLD) { TENANT } else { OTHER_TENANT };
    let category = if is_whole { json!("pipe") } else { Value::Null };
    (channel.to_owned(), kind.to_owned(), json!(municipality_id), category)
}

#[test]
fn setup_publishes_the_deletion_of_a_ticket() {
    let mut session = session();
    session.run(&insert(1, false));
    session.heard();
    session.run("DELETE FROM tickets");
    let events = session.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["type"], json!("DELETE"));
    assert_eq!(events[0]["tracking_number"], json!("TKT-1"), "the old row");
    assert_eq!(session.warnings().len(), 0);
}

#[test]
fn the_deletion_of_a_sensitive_ticket_is_redacted() {
    for (mode, expected) in [
        ("redacted", vec![event(OLD, "DELETE", false), event(OLD_SENSITIVE, "DELETE", true)]),
        ("restricted", vec![event(OLD_SENSITIVE, "DELETE", true)]),
        ("full", vec![event(OLD, "DELETE", true)]),
    ] {
        let mut session = session();
        session.run(&format!("SET civic.sensitive_events = {mode}; {}", insert(1, true)));
        session.heard();
        session.run("DELETE FROM tickets");
        assert_eq!(seen(&mut session), expected, "{mode}");
    }
}

#[test]
fn a_moved_ticket_is_deleted_in_the_old_municipality_and_updated_in_the_new_one() {
    let mut session = session();
    session.run(&insert(1, false));
    let id = session.text("SELECT id FROM tickets");
    session.heard();
    session.run(&format!("UPDATE tickets SET tenant_id = '{OTHER_TENANT}', status = 'closed'"));
    let events = session.heard();
    let parsed: Vec<Value> =
        events.iter().map(|(_, payload)| serde_json::from_str(payload).unwrap()).collect();
    assert_eq!((events[0].0.as_str(), events[1].0.as_str(), events.len()), (OLD, NEW, 2));
    // The old municipality receives nothing of the version that it has no right to.
    let keys = ["type", "ticket_id", "municipality_id", "status"];
    let of = |event: &Value| keys.map(|key| event[key].as_str().unwrap_or_default().to_owned());
    assert_eq!(of(&parsed[0]), ["DELETE", &id, TENANT, "open"]);
    assert_eq!(of(&parsed[1]), ["UPDATE", &id, OTHER_TENANT, "closed"]);
}

#[test]
fn an_update_within_a_municipality_is_no_move() {
    let mut session = session();
    session.run(&insert(1, false));
    session.heard();
    session.run(&format!("UPDATE tickets SET tenant_id = '{TENANT}', status = 'closed'"));
    assert_eq!(seen(&mut session), [event(OLD, "UPDATE", true)]);
}

#[test]
fn a_sensitive_ticket_that_moves_is_redacted_in_both_municipalities() {
    let (old, new) = ((OLD, OLD_SENSITIVE), (NEW, NEW_SENSITIVE));
    for mode in ["redacted", "restricted", "full"] {
        let mut session = session();
        session.run(&format!("SET civic.sensitive_events = {mode}; {}", insert(1, true)));
        session.heard();
        session.run(&move_to(OTHER_TENANT));
        let events = |(shared, sensitive): (&str, &str), kind: &str| match mode {
            "redacted" => vec![event(shared, kind, false), event(sensitive, kind, true)],
            "restricted" => vec![event(sensitive, kind, true)],
            _ => vec![event(shared, kind, true)],
        };
        let expected = [events(old, "DELETE"), events(new, "UPDATE")].concat();
        assert_eq!(seen(&mut session), expected, "{mode}");
    }
}

/// Each way in which a ticket that moves is sensitive afterwards: the old municipality knows it as an ordinary
/// one, and must not receive any part of the transaction whole.
#[test]
fn a_ticket_that_moves_and_becomes_sensitive_in_one_transaction_is_redacted_in_the_old_municipality()
 {
    let sensitive = "UPDATE tickets SET is_sensitive = true;";
    for statements in [
        format!("UPDATE tickets SET tenant_id = '{OTHER_TENANT}', is_sensitive = true;"),
        move_to(OTHER_TENANT) + sensitive,
        sensitive.to_owned() + &move_to(OTHER_TENANT),
        format!("{} SAVEPOINT s; {sensitive} RELEASE s;", move_to(OTHER_TENANT)),
        format!("{} {} {sensitive}", move_to(OTHER_TENANT), move_to(TENANT)),
        format!("{} {sensitive} DELETE FROM tickets;", move_to(OTHER_TENANT)),
        format!("{} UPDATE tickets SET id = gen_random_uuid(); {sensitive}", move_to(OTHER_TENANT)),
        format!(
            "UPDATE tickets SET id = gen_random_uuid(), tenant_id = '{OTHER_TENANT}'; {sensitive}"
        ),
    ] {
        let mut session = session();
        session.run(&insert(1, false));
        session.heard();
        session.run(&format!("BEGIN; {statements} COMMIT"));
        let seen = seen(&mut session);
        assert!(
            seen.iter().any(|seen| seen.1 == "DELETE" && seen.0 == OLD),
            "{statements}: {seen:?}"
        );
        for (channel, _, _, category) in &seen {
            let is_sensitive = channel.ends_with(":sensitive");
            assert_eq!(!category.is_null(), is_sensitive, "{statements}: {seen:?}");
        }
    }
}

#[test]
fn a_ticket_that_ceases_to_be_sensitive_as_it_moves_is_redacted_in_the_old_municipality_only() {
    let mut session = session();
    session.run(&insert(1, true));
    session.heard();
    session.run(&format!("UPDATE tickets SET tenant_id = '{OTHER_TENANT}', is_sensitive = false"));
    let expected = [
        event(OLD, "DELETE", false),
        event(OLD_SENSITIVE, "DELETE", true),
        event(NEW, "UPDATE", true),
    ];
    assert_eq!(seen(&mut session), expected);
}

#[test]
fn a_ticket_that_is_moved_and_moved_back_ends_where_it_began() {
    let mut session = session();
    session.run(&insert(1, false));
    session.heard();
    session.run(&format!("BEGIN; {} {} COMMIT", move_to(OTHER_TENANT), move_to(TENANT)));
    let expected = [
        event(OLD, "DELETE", true),
        event(NEW, "UPDATE", true),
        event(NEW, "DELETE", true),
        event(OLD, "UPDATE", true),
    ];
    assert_eq!(seen(&mut session), expected);
}

/// NOTIFY sends one of two equal events: it must be the later one, or the listener ends with a ticket that has
/// gone, or without one that is there.
#[test]
fn each_municipality_ends_with_the_last_of_many_moves() {
    for (moves, (old, new)) in [(3, ("DELETE", "UPDATE")), (4, ("UPDATE", "DELETE"))] {
        let mut session = session();
        session.run(&insert(1, false));
        session.heard();
        let moves: String =
            [OTHER_TENANT, TENANT].iter().cycle().take(moves).map(|id| move_to(id)).collect();
        session.run(&format!("BEGIN; {moves} COMMIT"));
        let seen = seen(&mut session);
        let last = |channel: &str| seen.iter().rfind(|seen| seen.0 == channel).unwrap().1.clone();
        assert_eq!((last(OLD).as_str(), last(NEW).as_str()), (old, new), "{moves}: {seen:?}");
    }
}

#[test]
fn a_move_that_is_rolled_back_is_not_published() {
    let mut session = session();
    session.run(&insert(1, false));
    session.heard();
    session.run(&format!(
        "BEGIN; SAVEPOINT s; {} ROLLBACK TO s; UPDATE tickets SET status = 'closed'; COMMIT",
        move_to(OTHER_TENANT)
    ));
    assert_eq!(seen(&mut session), [event(OLD, "UPDATE", true)]);
    session.run(&format!("BEGIN; {} ROLLBACK", move_to(OTHER_TENANT)));
    assert_eq!(seen(&mut session), []);
}

#[test]
fn a_ticket_that_loses_its_municipality_is_deleted_there_and_one_that_gains_it_is_updated() {
    let mut session = session();
    session
        .run(&format!("ALTER TABLE tickets ALTER tenant_id DROP NOT NULL; {}", insert(1, false)));
    session.heard();
    for nowhere in ["NULL", "''", "repeat('x', 10000)"] {
        session.run(&format!("UPDATE tickets SET tenant_id = {nowhere}"));
        assert_eq!(seen(&mut session), [event(OLD, "DELETE", true)], "{nowhere}");
        assert_eq!(session.warnings().len(), 1, "{nowhere}: the new version is published nowhere");
        session.run(&move_to(TENANT));
        assert_eq!(seen(&mut session), [event(OLD, "UPDATE", true)], "{nowhere}");
        assert_eq!(session.warnings().len(), 0, "{nowhere}");
    }
}

#[test]
fn a_move_from_a_municipality_without_a_channel_is_written_with_a_warning() {
    let mut session = session();
    let unnamed = "x".repeat(60);
    session.run(&(insert(1, false) + &move_to(&unnamed)));
    session.heard();
    session.warnings();
    session.run(&move_to(OTHER_TENANT));
    assert_eq!(seen(&mut session), [event(NEW, "UPDATE", true)]);
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message().contains("is too long"), "{warnings:?}");
    assert_eq!(session.text("SELECT tenant_id FROM tickets"), OTHER_TENANT);
}

#[test]
fn blanks_at_the_end_of_a_char_are_no_other_municipality() {
    let mut session = Database::plain().superuser();
    session.run("LISTEN \"ticket_updates:a\"; LISTEN \"ticket_updates:b\"");
    session.makes_ticket_table("id int, tenant_id bpchar, category text");
    session.run("INSERT INTO ticket VALUES (1, 'a', 'pipe')");
    session.run("UPDATE ticket SET tenant_id = 'a  '; UPDATE ticket SET tenant_id = 'b'");
    let kinds: Vec<_> = seen(&mut session).into_iter().map(|(at, kind, ..)| (at, kind)).collect();
    let expected = [("a", "INSERT"), ("a", "UPDATE"), ("a", "DELETE"), ("b", "UPDATE")];
    assert_eq!(kinds, expected.map(|(id, kind)| (format!("ticket_updates:{id}"), kind.to_owned())));
}

#[test]
fn a_municipality_stored_out_of_line_is_the_same_one() {
    let mut session = Database::plain().superuser();
    session.run("LISTEN \"ticket_updates:a\"");
    session.makes_ticket_table("id int, tenant_id text, status text");
    session.run("INSERT INTO ticket VALUES (1, 'a', 'open')");
    // Two different texts that no channel names are no municipality, compressed or not.
    session.run("UPDATE ticket SET tenant_id = repeat('x', 100000)");
    session.run("ALTER TABLE ticket ALTER tenant_id SET STORAGE EXTERNAL; UPDATE ticket SET tenant_id = tenant_id || ''");
    let kinds: Vec<_> = session.events().into_iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["INSERT", "DELETE"]);
}

#[test]
fn a_table_partitioned_by_municipality_publishes_a_move_as_delete_and_insert() {
    let mut session = session();
    session.run(&format!(
        "CREATE TABLE parts (id int, tenant_id text, category text, is_sensitive boolean,
             PRIMARY KEY (id, tenant_id)) PARTITION BY LIST (tenant_id);
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN ('{TENANT}');
         CREATE TABLE part_2 PARTITION OF parts DEFAULT;
         SELECT civic.setup('parts');
         INSERT INTO parts VALUES (1, '{TENANT}', 'pipe', false)"
    ));
    session.heard();
    session.run(&format!("UPDATE parts SET tenant_id = '{OTHER_TENANT}'"));
    assert_eq!(seen(&mut session), [event(OLD, "DELETE", true), event(NEW, "INSERT", true)]);
    session.run(&format!(
        "BEGIN; UPDATE parts SET tenant_id = '{TENANT}', is_sensitive = true; COMMIT"
    ));
    let expected = [
        event(NEW, "DELETE", false),
        event(NEW_SENSITIVE, "DELETE", true),
        event(OLD, "INSERT", false),
        event(OLD_SENSITIVE, "INSERT", true),
    ];
    assert_eq!(seen(&mut session), expected);
}
