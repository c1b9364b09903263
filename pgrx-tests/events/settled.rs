//! A ticket that becomes sensitive within a transaction: no event of the transaction about it may
//! reach the shared channel whole, in any order of the changes.

use serde_json::{Value, json};

use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT};

const SHARED: &str = "ticket_updates:00000000-0000-0000-0000-000000000001";
const SENSITIVE: &str = "ticket_updates:00000000-0000-0000-0000-000000000001:sensitive";

const COLUMNS: &str = "id int, tenant_id text, tracking_number text, status text, category text,
    ward_id text, is_sensitive boolean, updated_at timestamptz DEFAULT '2026-01-01 00:00Z'";

/// A table with every column. This session writes to it and listens to both channels.
fn session(mode: &str) -> Session {
    let mut session = Database::plain().superuser();
    session.listens_to(TENANT);
    session.run(&format!("SET civic.sensitive_events = '{mode}'"));
    session.makes_ticket_table(COLUMNS);
    session
}

fn insert(id: i32, is_sensitive: bool) -> String {
    format!(
        "INSERT INTO ticket VALUES
             ({id}, '{TENANT}', 'TKT-SECRET', 'open', 'gbv', 'Ward 5', {is_sensitive});"
    )
}

fn publish(event: &Value) -> String {
    format!("SELECT civic.publish('{TENANT}', '{event}');")
}

/// Channel, operation, ticket and category of each event.
type Seen = (String, String, String, Value);

fn seen(session: &mut Session) -> Vec<Seen> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or("NULL").to_owned();
    session
        .heard()
        .into_iter()
        .map(|(channel, payload)| {
            let event: Value = serde_json::from_str(&payload).expect("JSON");
            let seen = (text(&event, "type"), text(&event, "ticket_id"), event["category"].clone());
            (channel, seen.0, seen.1, seen.2)
        })
        .collect()
}

fn shared(operation: &str, id: i32, category: Value) -> Seen {
    (SHARED.to_owned(), operation.to_owned(), id.to_string(), category)
}

fn sensitive(operation: &str, id: i32) -> Seen {
    (SENSITIVE.to_owned(), operation.to_owned(), id.to_string(), json!("gbv"))
}

/// The parts of an event that each channel receives if it is settled as sensitive.
fn settled(operation: &str, id: i32) -> [Seen; 2] {
    [shared(operation, id, Value::Null), sensitive(operation, id)]
}

/// Of two events with the same redacted form the last is notified.
fn folded(events: Vec<Seen>) -> Vec<Seen> {
    let is_repeated =
        |place: usize, event: &Seen| event.3.is_null() && events[place + 1..].contains(event);
    let last = events.iter().enumerate().filter(|(place, event)| !is_repeated(*place, event));
    last.map(|(_, event)| event.clone()).collect()
}

/// Each way in which a ticket becomes sensitive after one of its events was made. The ticket's
/// final id is 7. Lists the events in order.
fn ways() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let classify = "CREATE FUNCTION classify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE ticket SET is_sensitive = true WHERE id = NEW.id; RETURN NULL; END $$;";
    vec![
        (
            "an object-relational mapper flushes twice",
            format!("BEGIN; {} UPDATE ticket SET is_sensitive = true; COMMIT", insert(7, false)),
            vec!["INSERT", "UPDATE"],
        ),
        (
            "an AFTER trigger that sorts before ours classifies",
            format!(
                "{classify} CREATE TRIGGER a_classify AFTER INSERT ON ticket
                     FOR EACH ROW EXECUTE FUNCTION classify(); {}",
                insert(7, false)
            ),
            vec!["UPDATE", "INSERT"],
        ),
        (
            "a deferred constraint trigger classifies at the commit",
            format!(
                "{classify} CREATE CONSTRAINT TRIGGER a_classify AFTER INSERT ON ticket
                     DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION classify(); {}",
                insert(7, false)
            ),
            vec!["INSERT", "UPDATE"],
        ),
        (
            "a deferred trigger is made immediate",
            format!(
                "{classify} CREATE CONSTRAINT TRIGGER a_classify AFTER INSERT ON ticket
                     DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION classify();
                 BEGIN; {} SET CONSTRAINTS ALL IMMEDIATE; COMMIT",
                insert(7, false)
            ),
            vec!["INSERT", "UPDATE"],
        ),
        (
            "true, false, true",
            format!(
                "BEGIN; {} UPDATE ticket SET is_sensitive = false;
                 UPDATE ticket SET is_sensitive = true; COMMIT",
                insert(7, true)
            ),
            vec!["INSERT", "UPDATE", "UPDATE"],
        ),
        (
            "true, then false",
            format!("BEGIN; {} UPDATE ticket SET is_sensitive = false; COMMIT", insert(7, true)),
            vec!["INSERT", "UPDATE"],
        ),
        (
            "a savepoint that is released",
            format!(
                "BEGIN; {} SAVEPOINT s; UPDATE ticket SET is_sensitive = true; RELEASE s; COMMIT",
                insert(7, false)
            ),
            vec!["INSERT", "UPDATE"],
        ),
        (
            "an exception block of PL/pgSQL",
            format!(
                "DO $do$ BEGIN {} BEGIN UPDATE ticket SET is_sensitive = true;
                 EXCEPTION WHEN division_by_zero THEN NULL; END; END $do$",
                insert(7, false)
            ),
            vec!["INSERT", "UPDATE"],
        ),
        (
            "MERGE",
            format!(
                "BEGIN; {} MERGE INTO ticket USING (VALUES (7)) v (id) ON ticket.id = v.id
                     WHEN MATCHED THEN UPDATE SET is_sensitive = NULL; COMMIT",
                insert(7, false)
            ),
            vec!["INSERT", "UPDATE"],
        ),
        (
            "it is deleted as a sensitive one",
            format!(
                "BEGIN; {} UPDATE ticket SET is_sensitive = true; DELETE FROM ticket; COMMIT",
                insert(7, false)
            ),
            vec!["INSERT", "UPDATE", "DELETE"],
        ),
        (
            "in one statement, with another ticket's change between",
            format!(
                "BEGIN; {} WITH a AS (SELECT civic.publish('{OTHER_TENANT}', '{{\"type\": \"x\"}}'))
                     UPDATE ticket SET is_sensitive = true FROM a; COMMIT",
                insert(7, false)
            ),
            vec!["INSERT", "UPDATE"],
        ),
        (
            "a procedure that commits afterwards",
            format!(
                "CREATE PROCEDURE files() LANGUAGE plpgsql AS $do$ BEGIN {}
                     UPDATE ticket SET is_sensitive = true; COMMIT; END $do$ /* then */ CALL files()",
                insert(7, false)
            ),
            vec!["INSERT", "UPDATE"],
        ),
    ]
}

#[test]
fn a_ticket_that_becomes_sensitive_in_its_transaction_is_not_published_whole() {
    for (name, statements, operations) in ways() {
        for mode in ["redacted", "restricted", "full"] {
            let mut session = session(mode);
            // Each message is one transaction.
            for message in statements.split("/* then */") {
                session.run(message);
            }
            let expected: Vec<Seen> = operations
                .iter()
                .flat_map(|operation| match mode {
                    "redacted" => settled(operation, 7).to_vec(),
                    "restricted" => vec![sensitive(operation, 7)],
                    _ => vec![shared(operation, 7, json!("gbv"))],
                })
                .collect();
            assert_eq!(seen(&mut session), folded(expected), "{name}, {mode}");
            assert_eq!(session.warnings().len(), 0, "{name}, {mode}");
        }
    }
}

#[test]
fn the_shared_form_has_the_identifying_keys_and_the_sensitive_form_is_the_whole_version() {
    let mut session = session("redacted");
    session.run(&format!(
        "BEGIN; {} UPDATE ticket SET is_sensitive = true, status = 'escalated'; COMMIT",
        insert(7, false)
    ));
    let event = |operation: &str, values: &str, is_sensitive: bool| {
        let [number, status, category, ward] = match values {
            "" => ["null", "null", "null", "null"].map(str::to_owned),
            status => ["TKT-SECRET", status, "gbv", "Ward 5"].map(|text| format!("\"{text}\"")),
        };
        format!(
            r#"{{"type":"{operation}","ticket_id":"7","tracking_number":{number},"status":{status},"category":{category},"municipality_id":"{TENANT}","ward_id":{ward},"is_sensitive":{is_sensitive},"updated_at":1767225600.000000}}"#
        )
    };
    let expected = [
        (SHARED, event("INSERT", "", true)),
        (SENSITIVE, event("INSERT", "open", false)),
        (SHARED, event("UPDATE", "", true)),
        (SENSITIVE, event("UPDATE", "escalated", true)),
    ];
    assert_eq!(
        session.heard(),
        expected.map(|(channel, event)| (channel.to_owned(), event)).to_vec()
    );
}

#[test]
fn only_the_ticket_that_becomes_sensitive_is_redacted() {
    let mut session = session("redacted");
    session.run(&format!(
        "BEGIN; {} {} {} UPDATE ticket SET is_sensitive = true WHERE id = 7;
         UPDATE ticket SET status = 'closed' WHERE id = 8; COMMIT",
        insert(6, false),
        insert(7, false),
        insert(8, false)
    ));
    let mut expected = vec![shared("INSERT", 6, json!("gbv"))];
    expected.extend(settled("INSERT", 7));
    expected.push(shared("INSERT", 8, json!("gbv")));
    expected.extend(settled("UPDATE", 7));
    expected.push(shared("UPDATE", 8, json!("gbv")));
    assert_eq!(seen(&mut session), expected);
}

#[test]
fn a_rolled_back_sensitive_version_leaves_the_event_whole() {
    let mut session = session("redacted");
    session.run(&format!(
        "BEGIN; {} SAVEPOINT s; UPDATE ticket SET is_sensitive = true; SAVEPOINT t;
         UPDATE ticket SET status = 'x'; RELEASE t; ROLLBACK TO s; COMMIT",
        insert(7, false)
    ));
    session.run(&format!(
        "DO $do$ BEGIN {} BEGIN UPDATE ticket SET is_sensitive = true WHERE id = 8; PERFORM 1/0;
         EXCEPTION WHEN division_by_zero THEN NULL; END; END $do$",
        insert(8, false)
    ));
    assert_eq!(
        seen(&mut session),
        [shared("INSERT", 7, json!("gbv")), shared("INSERT", 8, json!("gbv"))]
    );
}

#[test]
fn an_earlier_transaction_does_not_affect_a_later_one() {
    let mut session = session("redacted");
    session.run(&format!("BEGIN; {} ROLLBACK", insert(7, true)));
    session.run(&insert(7, true));
    session.run("UPDATE ticket SET is_sensitive = false");
    let mut expected = settled("INSERT", 7).to_vec();
    expected.push(shared("UPDATE", 7, json!("gbv")));
    assert_eq!(seen(&mut session), expected);
}

#[test]
fn a_ticket_with_a_changed_id_is_the_same_ticket() {
    for (changes, ids) in [
        ("UPDATE ticket SET id = 8; UPDATE ticket SET is_sensitive = true", [7, 8, 8]),
        ("UPDATE ticket SET is_sensitive = true; UPDATE ticket SET id = 8", [7, 7, 8]),
    ] {
        let mut session = session("redacted");
        session.run(&format!("BEGIN; {} {changes}; COMMIT", insert(7, false)));
        let expected: Vec<Seen> = ["INSERT", "UPDATE", "UPDATE"]
            .iter()
            .zip(ids)
            .flat_map(|(operation, id)| settled(operation, id))
            .collect();
        assert_eq!(seen(&mut session), folded(expected), "{changes}");
    }
}

#[test]
fn tickets_of_two_tables_with_the_same_id_are_two_tickets() {
    let mut session = session("redacted");
    session.run(
        "CREATE TABLE other (LIKE ticket);
         CREATE TRIGGER tell AFTER INSERT OR UPDATE ON other
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()",
    );
    session.run(&format!(
        "BEGIN; {} {} UPDATE ticket SET is_sensitive = true; COMMIT",
        insert(7, false).replace("INTO ticket", "INTO other"),
        insert(7, false)
    ));
    let mut expected = vec![shared("INSERT", 7, json!("gbv"))];
    expected.extend(settled("INSERT", 7));
    expected.extend(settled("UPDATE", 7));
    assert_eq!(seen(&mut session), expected);
}

#[test]
fn a_ticket_that_moves_to_another_partition_is_the_same_ticket() {
    let mut session = session("redacted");
    session.run(&format!(
        "DROP TABLE ticket;
         CREATE TABLE ticket ({COLUMNS}) PARTITION BY LIST (status);
         CREATE TABLE ticket_open PARTITION OF ticket FOR VALUES IN ('open');
         CREATE TABLE ticket_rest PARTITION OF ticket DEFAULT PARTITION BY LIST (category);
         CREATE TABLE ticket_gbv PARTITION OF ticket_rest FOR VALUES IN ('gbv');
         CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON ticket
             FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()"
    ));
    session.run(&format!(
        "BEGIN; {} UPDATE ticket SET status = 'escalated', is_sensitive = true; COMMIT",
        insert(7, false)
    ));
    let expected: Vec<Seen> =
        ["INSERT", "DELETE", "INSERT"].iter().flat_map(|what| settled(what, 7)).collect();
    assert_eq!(seen(&mut session), folded(expected));
}

#[test]
fn a_ticket_that_moves_to_another_municipality_is_redacted_in_the_old_one() {
    let mut session = session("redacted");
    session.listens_to(OTHER_TENANT);
    session.run(&format!(
        "BEGIN; {} UPDATE ticket SET tenant_id = '{OTHER_TENANT}', is_sensitive = true; COMMIT",
        insert(7, false)
    ));
    // Also if no municipality receives the sensitive version.
    session.run(&format!(
        "BEGIN; {} UPDATE ticket SET tenant_id = NULL, is_sensitive = true WHERE id = 8; COMMIT",
        insert(8, false)
    ));
    let seen = seen(&mut session);
    let whole = |seen: &&Seen| !seen.0.ends_with(":sensitive") && !seen.3.is_null();
    assert_eq!(seen.iter().find(whole), None, "{seen:?}");
    // In the first municipality INSERT and DELETE of both tickets, in the second one UPDATE, each on two
    // channels.
    assert_eq!(seen.len(), 10, "{seen:?}");
}

#[test]
fn a_ticket_that_gets_its_id_in_another_municipality_is_redacted_in_the_old_one() {
    let mut session = session("redacted");
    session.listens_to(OTHER_TENANT);
    session.run(&format!(
        "BEGIN; {} UPDATE ticket SET id = 7, tenant_id = '{OTHER_TENANT}';
         UPDATE ticket SET is_sensitive = true; COMMIT",
        insert(7, false).replace("(7,", "(NULL,")
    ));
    let seen = seen(&mut session);
    let whole = |seen: &&Seen| !seen.0.ends_with(":sensitive") && !seen.3.is_null();
    assert_eq!(seen.iter().find(whole), None, "{seen:?}");
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn without_an_id_every_event_of_the_table_and_municipality_is_redacted() {
    let mut session = session("redacted");
    session.listens_to(OTHER_TENANT);
    session.run("ALTER TABLE ticket DROP COLUMN id");
    let insert = |tenant: &str, is_sensitive: bool| {
        format!("INSERT INTO ticket VALUES ('{tenant}', 'T', 'open', 'gbv', 'W', {is_sensitive});")
    };
    session.run(&format!(
        "BEGIN; {} {} {} COMMIT",
        insert(TENANT, false),
        insert(OTHER_TENANT, false),
        insert(TENANT, true)
    ));
    let seen = seen(&mut session);
    let of = |channel: &str| -> Vec<Value> {
        seen.iter().filter(|seen| seen.0 == channel).map(|seen| seen.3.clone()).collect()
    };
    // NOTIFY sends one of two equal events.
    assert_eq!(of(SHARED), [Value::Null]);
    assert_eq!(of(SENSITIVE), [json!("gbv"), json!("gbv")]);
    assert_eq!(of(&SHARED.replace("0001", "0002")), [json!("gbv")]);
}

#[test]
fn an_id_too_long_to_read_redacts_the_events_that_could_be_of_its_ticket() {
    let mut session = session("redacted");
    session.run("ALTER TABLE ticket ALTER id TYPE text");
    session.run(&format!(
        "BEGIN; {} UPDATE ticket SET is_sensitive = true, id = repeat('7', 10000); COMMIT",
        insert(7, false)
    ));
    let seen = seen(&mut session);
    let whole = |seen: &&Seen| !seen.0.ends_with(":sensitive") && !seen.3.is_null();
    assert_eq!(seen.iter().find(whole), None, "{seen:?}");
}

#[test]
fn a_published_event_that_names_the_ticket_is_redacted_with_it() {
    for (ticket_id, is_redacted) in [(json!("7"), true), (json!(7), true), (json!("8"), false)] {
        let mut session = session("redacted");
        let event = json!({"type": "sla", "ticket_id": ticket_id, "category": "gbv", "is_sensitive": false});
        let other = json!({"type": "x", "category": "water"});
        session.run(&format!(
            "BEGIN; {} {} {} UPDATE ticket SET is_sensitive = true; COMMIT",
            insert(7, false),
            publish(&event),
            publish(&other)
        ));
        let events = session.heard();
        let of = |channel: &str| -> Vec<Value> {
            let own =
                events.iter().filter(|(at, payload)| at == channel && payload.contains("sla"));
            own.map(|(_, payload)| serde_json::from_str(payload).expect("JSON")).collect()
        };
        if is_redacted {
            let redacted = json!({"type": "sla", "ticket_id": ticket_id, "category": null, "is_sensitive": true});
            assert_eq!((of(SHARED), of(SENSITIVE)), (vec![redacted], vec![event]));
        } else {
            assert_eq!((of(SHARED), of(SENSITIVE)), (vec![event], vec![]));
        }
        let whole = (SHARED.to_owned(), r#"{"category":"water","type":"x"}"#.to_owned());
        assert!(events.contains(&whole), "{events:?}");
    }
}

#[test]
fn a_truncated_event_is_settled_too() {
    let mut session = session("redacted");
    session.run(&format!(
        "BEGIN; INSERT INTO ticket VALUES
             (7, '{TENANT}', 'TKT-SECRET', repeat('x', 8000), 'gbv', 'Ward 5', false);
         UPDATE ticket SET is_sensitive = true, status = 'open'; COMMIT"
    ));
    let events = session.heard();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0].0, SHARED);
    assert!(!events[0].1.contains("truncated") && events[0].1.contains(r#""is_sensitive":true"#));
    assert_eq!(events[1].0, SENSITIVE);
    assert!(events[1].1.ends_with(r#","truncated":true}"#));
}

#[test]
fn a_municipality_too_long_for_the_sensitive_channel_loses_the_whole_event_with_a_warning() {
    let tenant_id = "x".repeat(40);
    for (mode, expected) in [("redacted", 2), ("restricted", 0)] {
        let mut session = session(mode);
        session.run(&format!("LISTEN \"ticket_updates:{tenant_id}\""));
        session.run(&format!(
            "BEGIN; {} UPDATE ticket SET is_sensitive = true; COMMIT",
            insert(7, false).replace(TENANT, &tenant_id)
        ));
        let events = session.heard();
        assert_eq!(events.len(), expected, "{mode}");
        assert!(events.iter().all(|(_, event)| !event.contains("gbv")), "{mode}: {events:?}");
        let warnings = session.warnings();
        assert!(!warnings.is_empty(), "{mode}");
        assert!(warnings.iter().all(|warning| !warning.message().contains("TKT-SECRET")));
    }
}

#[test]
fn copy_and_many_rows_are_settled_row_by_row() {
    let mut session = session("redacted");
    session.run("SET civic.bulk_after = 0");
    session.run(&format!(
        "BEGIN;
         INSERT INTO ticket SELECT i, '{TENANT}', i::text, 'open', 'gbv', 'W', i % 100 = 0
         FROM generate_series(1, 5000) i;
         UPDATE ticket SET is_sensitive = true WHERE id % 100 = 1; COMMIT"
    ));
    let seen = seen(&mut session);
    for (channel, operation, id, category) in &seen {
        let id: i32 = id.parse().expect("a number");
        let is_sensitive = matches!(id % 100, 0 | 1);
        let expected = channel == SENSITIVE || !is_sensitive;
        assert_eq!(!category.is_null(), expected, "{channel} {operation} {id}");
    }
    assert_eq!(seen.len(), 5000 + 50 + 50 + 2 * 50);
}

#[test]
fn notify_is_called_only_after_the_events_are_settled() {
    let mut session = session("redacted");
    session.run(&format!("BEGIN; {}", insert(7, false)));
    session.run("SAVEPOINT s");
    session.run("UPDATE ticket SET is_sensitive = true");
    assert!(session.heard().is_empty());
    session.run("COMMIT");
    assert_eq!(seen(&mut session), [settled("INSERT", 7), settled("UPDATE", 7)].concat());
}

/// A future function that publishes must not bypass the end of the transaction.
#[test]
fn nothing_but_the_end_of_a_transaction_calls_notify() {
    /// Files that call NOTIFY, with the reason why no ticket's event leaves too early.
    const CALLERS: [(&str, &str); 4] = [
        ("src/pg/notify.rs", "is the call"),
        (
            "src/relay/prepared.rs",
            "has what prepared transactions have stored, once they are committed",
        ),
        ("src/relay/transaction.rs", "is called at the commit, with what is settled"),
        ("src/relay/worker.rs", "has what transactions have handed over"),
    ];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("sql")];
    let mut callers = std::collections::BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"))
        {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a text");
            let calls = ["Async_Notify", "notify::notify(", "notify_if_room(", "pg_notify("];
            if calls.iter().any(|call| text.contains(call)) {
                let name = path.strip_prefix(root).expect("within").display().to_string();
                callers.insert(name);
            }
        }
    }
    let expected = CALLERS.map(|(file, _)| file.to_owned());
    assert_eq!(callers, expected.into_iter().collect());
}
