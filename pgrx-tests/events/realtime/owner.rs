//! The topic of each user, with the events of their own ordinary tickets.

mod join;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use super::Message;
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT};

const CITIZEN: &str = "8f14e45f-0000-4000-8000-000000000000";
const NEIGHBOUR: &str = "8f14e45f-0000-4000-8000-000000000001";

fn insert(user_id: &str, is_sensitive: bool) -> String {
    format!(
        "INSERT INTO tickets (tenant_id, category, status, user_id, is_sensitive)
         VALUES ('{TENANT}', 'pipe', 'open', '{user_id}', {is_sensitive});"
    )
}

fn topic(user_id: &str) -> String {
    format!("ticket_owner:{user_id}")
}

/// The messages to owners since the last call: user, type and status.
fn to_owners(session: &mut Session) -> Vec<(String, String, Value)> {
    let told: Vec<Message> = session.messages();
    session.run("DELETE FROM realtime.messages");
    let of_owner = told.into_iter().filter_map(|(topic, event, mut payload)| {
        let user = topic.strip_prefix("ticket_owner:")?.to_owned();
        assert_eq!(payload["type"], json!(event));
        Some((user, event, payload["status"].take()))
    });
    of_owner.collect()
}

fn told(user_id: &str, kind: &str, status: &str) -> (String, String, Value) {
    (user_id.to_owned(), kind.to_owned(), json!(status))
}

#[test]
fn the_owner_of_an_ordinary_ticket_receives_each_of_its_events() {
    let mut session = Database::realtime().superuser();
    session.run(&insert(CITIZEN, false));
    let messages = session.messages();
    assert_eq!(messages.len(), 2);
    assert_eq!(
        (messages[0].0.clone(), messages[1].0.clone()),
        (format!("ticket_updates:{TENANT}"), topic(CITIZEN))
    );
    let without_id = |message: &Message| {
        let mut payload = message.2.clone();
        payload.as_object_mut().unwrap().remove("id");
        payload
    };
    assert_eq!(without_id(&messages[0]), without_id(&messages[1]));
    to_owners(&mut session);
    session.run("UPDATE tickets SET status = 'closed'; DELETE FROM tickets");
    let expected = [told(CITIZEN, "UPDATE", "closed"), told(CITIZEN, "DELETE", "closed")];
    assert_eq!(to_owners(&mut session), expected);
    assert_eq!(session.warnings().len(), 0);
}

#[test]
fn no_event_of_an_owner_is_notified_because_anybody_may_listen() {
    let mut session = Database::realtime().superuser();
    session.run(&format!("LISTEN {:?}", topic(CITIZEN)));
    session.listens_to(TENANT);
    for transport in ["auto", "notify", "realtime", "notify, realtime", "none"] {
        session
            .run(&format!("SET civic.event_transport = '{transport}'; {}", insert(CITIZEN, false)));
        let heard = session.heard();
        assert!(
            heard.iter().all(|(channel, _)| channel.starts_with("ticket_updates:")),
            "{heard:?}"
        );
        let expected = usize::from(!matches!(transport, "notify" | "none"));
        assert_eq!(to_owners(&mut session).len(), expected, "{transport}");
    }
}

#[test]
fn the_owner_of_a_sensitive_ticket_receives_nothing_in_any_mode() {
    let sensitive = "UPDATE tickets SET is_sensitive = true, status = 'escalated';";
    let ordinary = "UPDATE tickets SET is_sensitive = false;";
    for mode in ["redacted", "restricted", "full"] {
        for (name, statements) in [
            ("it is sensitive", insert(CITIZEN, true)),
            ("it becomes sensitive", format!("BEGIN; {} {sensitive} COMMIT", insert(CITIZEN, false))),
            (
                "it becomes sensitive in a savepoint",
                format!("BEGIN; {} SAVEPOINT s; {sensitive} RELEASE s; COMMIT", insert(CITIZEN, false)),
            ),
            ("it was sensitive", format!("BEGIN; {} {ordinary} COMMIT", insert(CITIZEN, true))),
            (
                "it becomes sensitive under another id",
                format!(
                    "BEGIN; {} UPDATE tickets SET id = gen_random_uuid(); {sensitive} COMMIT",
                    insert(CITIZEN, false)
                ),
            ),
            (
                "it becomes sensitive in another municipality",
                format!(
                    "BEGIN; {} UPDATE tickets SET tenant_id = '{OTHER_TENANT}'; {sensitive} COMMIT",
                    insert(CITIZEN, false)
                ),
            ),
            (
                "it gets another owner as it becomes sensitive",
                format!(
                    "BEGIN; {} UPDATE tickets SET user_id = '{NEIGHBOUR}'; {sensitive} COMMIT",
                    insert(CITIZEN, false)
                ),
            ),
            (
                "a deferred trigger classifies it",
                format!(
                    "CREATE FUNCTION classify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                         UPDATE tickets SET is_sensitive = true WHERE id = NEW.id; RETURN NULL; END $$;
                     CREATE CONSTRAINT TRIGGER classify AFTER INSERT ON tickets
                         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION classify(); {}",
                    insert(CITIZEN, false)
                ),
            ),
        ] {
            let mut session = Database::realtime().superuser();
            session.run(&format!("SET civic.sensitive_events = {mode}"));
            session.run(&statements);
            assert_eq!(to_owners(&mut session), [], "{name}, {mode}");
            assert_eq!(session.warnings().len(), 0, "{name}, {mode}");
        }
    }
}

/// The transaction that declassifies a ticket may be a mistake that the next one corrects.
#[test]
fn a_ticket_that_was_sensitive_reaches_its_owner_only_from_the_next_transaction_on() {
    for mode in ["redacted", "full"] {
        let mut session = Database::realtime().superuser();
        session.run(&format!("SET civic.sensitive_events = {mode}; {}", insert(CITIZEN, true)));
        for statements in [
            "UPDATE tickets SET is_sensitive = false",
            "BEGIN; UPDATE tickets SET is_sensitive = false; UPDATE tickets SET status = 'x'; COMMIT",
            "BEGIN; UPDATE tickets SET is_sensitive = false; DELETE FROM tickets; ROLLBACK;
             BEGIN; UPDATE tickets SET is_sensitive = false; UPDATE tickets SET id = gen_random_uuid();
             UPDATE tickets SET status = 'y'; COMMIT",
            "BEGIN; UPDATE tickets SET is_sensitive = false, user_id = '8f14e45f-0000-4000-8000-000000000001';
             UPDATE tickets SET user_id = '8f14e45f-0000-4000-8000-000000000000'; COMMIT",
            "BEGIN; SAVEPOINT s; UPDATE tickets SET is_sensitive = false; RELEASE s;
             UPDATE tickets SET status = 'z'; COMMIT",
        ] {
            session.run(statements);
            assert_eq!(to_owners(&mut session), [], "{mode}: {statements}");
            session.run("UPDATE tickets SET status = 'open'");
            assert_eq!(to_owners(&mut session), [told(CITIZEN, "UPDATE", "open")], "{mode}: {statements}");
            session.run("UPDATE tickets SET is_sensitive = true");
            assert_eq!(to_owners(&mut session), [], "{mode}: the topic does not say so");
        }
    }
}

#[test]
fn a_sensitive_version_that_is_rolled_back_does_not_count() {
    let mut session = Database::realtime().superuser();
    session.run(&format!(
        "BEGIN; {} SAVEPOINT s; UPDATE tickets SET is_sensitive = true; ROLLBACK TO s; COMMIT",
        insert(CITIZEN, false)
    ));
    assert_eq!(to_owners(&mut session), [told(CITIZEN, "INSERT", "open")]);
}

#[test]
fn one_sensitive_ticket_does_not_silence_the_others() {
    for mode in ["redacted", "full"] {
        let mut session = Database::realtime().superuser();
        session.run(&format!("SET civic.sensitive_events = {mode}"));
        session.run(&format!(
            "BEGIN; {} {} {} COMMIT",
            insert(CITIZEN, false),
            insert(NEIGHBOUR, true),
            insert(NEIGHBOUR, false)
        ));
        let expected = [told(CITIZEN, "INSERT", "open"), told(NEIGHBOUR, "INSERT", "open")];
        assert_eq!(to_owners(&mut session), expected, "{mode}");
    }
}

#[test]
fn a_former_owner_receives_a_delete_of_the_version_that_they_know() {
    let mut session = Database::realtime().superuser();
    session.run(&insert(CITIZEN, false));
    to_owners(&mut session);
    session.run(&format!("UPDATE tickets SET user_id = '{NEIGHBOUR}', status = 'closed'"));
    let expected = [told(CITIZEN, "DELETE", "open"), told(NEIGHBOUR, "UPDATE", "closed")];
    assert_eq!(to_owners(&mut session), expected);
    session.run("UPDATE tickets SET user_id = NULL, status = 'secret'");
    assert_eq!(to_owners(&mut session), [told(NEIGHBOUR, "DELETE", "closed")]);
    session.run("UPDATE tickets SET status = 'open'");
    assert_eq!(to_owners(&mut session), []);
}

#[test]
fn an_owner_named_by_two_columns_receives_each_event_once() {
    let mut session = Database::realtime().superuser();
    session.run(&format!(
        "INSERT INTO tickets (tenant_id, status, user_id, created_by, is_sensitive)
         VALUES ('{TENANT}', 'open', '{CITIZEN}', '{CITIZEN}', false)"
    ));
    assert_eq!(to_owners(&mut session), [told(CITIZEN, "INSERT", "open")]);
    // One column still names them, so they lose nothing.
    session.run(&format!("UPDATE tickets SET user_id = '{NEIGHBOUR}'"));
    let expected = [told(NEIGHBOUR, "UPDATE", "open"), told(CITIZEN, "UPDATE", "open")];
    assert_eq!(to_owners(&mut session), expected);
}

#[test]
fn the_setting_names_the_columns_and_those_that_a_table_lacks_are_skipped() {
    let database = Database::realtime();
    let mut session = database.superuser();
    for (columns, owners) in [
        ("user_id, created_by", vec![CITIZEN, "clerk"]),
        (" created_by ,, nothing ", vec!["clerk"]),
        ("assigned_to,updated_by", vec![]),
        ("USER_ID", vec![]),
        ("", vec![]),
        ("user_id", vec![CITIZEN]),
    ] {
        session.run(&format!("SET civic.ticket_owner_columns = '{columns}'"));
        session.run(&format!(
            "INSERT INTO tickets (tenant_id, status, user_id, created_by, is_sensitive)
             VALUES ('{TENANT}', 'open', '{CITIZEN}', 'clerk', false)"
        ));
        let expected: Vec<_> = owners.iter().map(|user| told(user, "INSERT", "open")).collect();
        assert_eq!(to_owners(&mut session), expected, "{columns:?}");
    }
    assert_eq!(session.sqlstate("SET civic.ticket_owner_columns = 'a, b, c, d, e'"), "22023");
    session.run("SET civic.ticket_owner_columns = 'a, b, c, d'");
    let mut person = database.person(TENANT, "admin");
    person.run("SELECT civic.tenant_id()");
    assert_eq!(person.sqlstate("SET civic.ticket_owner_columns = 'assigned_to'"), "42501");
}

#[test]
fn owners_are_read_by_name_after_a_change_of_the_table() {
    let mut session = Database::realtime().superuser();
    session.run(&insert(CITIZEN, false));
    session.run(
        "ALTER TABLE tickets DROP description, DROP user_id; ALTER TABLE tickets ADD user_id text",
    );
    to_owners(&mut session);
    session.run("UPDATE tickets SET user_id = 'u1'");
    assert_eq!(to_owners(&mut session), [told("u1", "UPDATE", "open")]);
    session.run("ALTER TABLE tickets ALTER user_id TYPE bigint USING 7");
    session.run("UPDATE tickets SET status = 'closed'");
    assert_eq!(to_owners(&mut session), [told("7", "UPDATE", "closed")]);
}

#[test]
fn a_value_that_cannot_be_a_users_id_has_no_topic_and_costs_no_ticket() {
    let mut session = Database::realtime().superuser();
    session.run("ALTER TABLE tickets ALTER created_by TYPE text");
    for (value, owners) in [
        ("''", vec![]),
        ("NULL", vec![]),
        ("repeat('u', 51)", vec![]),
        ("repeat('u', 100000)", vec![]),
        ("repeat('é', 26)", vec![]),
        ("repeat('u', 50)", vec!["u".repeat(50)]),
        ("E'a\\nb'", vec!["a\nb".to_owned()]),
        ("':sensitive'", vec![":sensitive".to_owned()]),
    ] {
        session.run(&format!(
            "INSERT INTO tickets (tenant_id, status, created_by, is_sensitive)
             VALUES ('{TENANT}', 'open', {value}, false)"
        ));
        let expected: Vec<_> = owners.iter().map(|user| told(user, "INSERT", "open")).collect();
        assert_eq!(to_owners(&mut session), expected, "{value}");
        assert_eq!(session.warnings().len(), 0, "{value}");
    }
}

/// A login can write text that is not UTF-8: the server does not check settings of the startup packet.
#[test]
fn an_id_in_invalid_bytes_has_no_topic() {
    let database = Database::realtime();
    let insert = format!(
        "INSERT INTO tickets (tenant_id, status, user_id, created_by, is_sensitive)
         VALUES ('{TENANT}', 'open', '{CITIZEN}', current_setting('foo.bar'), false)"
    );
    for bytes in [&b"u\xff"[..], b"\xe2", b"\xed\xa0\x80"] {
        let options = [b"-c foo.bar=", bytes].concat();
        let mut psql = database.program("psql");
        psql.env("PGOPTIONS", OsStr::from_bytes(&options)).args(["-X", "-c", &insert]);
        let output = psql.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut session = database.superuser();
        assert_eq!(to_owners(&mut session), [told(CITIZEN, "INSERT", "open")]);
    }
}

#[test]
fn a_ticket_without_a_readable_id_reaches_no_owner() {
    let mut session = Database::realtime().superuser();
    session.run(&format!(
        "CREATE TABLE notes (tenant_id text, status text, user_id text, is_sensitive boolean);
         SELECT civic.setup('notes');
         INSERT INTO notes VALUES ('{TENANT}', 'open', '{CITIZEN}', false)"
    ));
    assert_eq!(to_owners(&mut session), []);
}

#[test]
fn an_unreadable_id_of_a_sensitive_version_silences_every_owner_of_the_table() {
    let mut session = Database::realtime().superuser();
    session.run("ALTER TABLE tickets DROP CONSTRAINT tickets_pkey, ALTER id TYPE text, REPLICA IDENTITY FULL");
    session.run(&format!(
        "BEGIN; {} {} UPDATE tickets SET is_sensitive = true, id = repeat('7', 10000)
             WHERE user_id = '{NEIGHBOUR}'; COMMIT",
        insert(CITIZEN, false),
        insert(NEIGHBOUR, false)
    ));
    assert_eq!(to_owners(&mut session), []);
}

#[test]
fn an_event_of_the_application_reaches_no_owner() {
    let mut session = Database::realtime().superuser();
    session.run(&insert(CITIZEN, false));
    let id = session.text("SELECT id FROM tickets");
    to_owners(&mut session);
    session.run(&format!(
        "SELECT civic.publish('{TENANT}', '{{\"type\": \"sla_breach\", \"ticket_id\": \"{id}\",
             \"user_id\": \"{CITIZEN}\", \"created_by\": \"{CITIZEN}\"}}')"
    ));
    assert_eq!(session.messages().len(), 1);
    assert_eq!(to_owners(&mut session), []);
}

#[test]
fn a_trigger_of_realtime_cannot_make_a_ticket_sensitive_after_it_was_sent_to_its_owner() {
    for mode in ["redacted", "full"] {
        let mut session = Database::realtime().superuser();
        session.run(&format!(
            "SET civic.sensitive_events = {mode};
             GRANT SELECT, UPDATE ON tickets TO supabase_realtime_admin;
             CREATE FUNCTION public.meddles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.topic LIKE 'ticket_owner:%' THEN
                     UPDATE public.tickets SET is_sensitive = true WHERE NOT is_sensitive;
                 END IF;
                 RETURN NEW; END $$;
             CREATE TRIGGER meddles BEFORE INSERT ON realtime.messages
                 FOR EACH ROW EXECUTE FUNCTION public.meddles()"
        ));
        session.run(&insert(CITIZEN, false));
        assert_eq!(to_owners(&mut session), [], "{mode}");
        assert_eq!(session.text("SELECT is_sensitive FROM tickets"), "f", "{mode}");
        assert_eq!(session.warnings().len(), 1, "{mode}");
    }
}

#[test]
fn without_realtime_an_owner_costs_nothing() {
    let mut session = Database::guarded().superuser();
    session.listens_to(TENANT);
    session.run(&insert(CITIZEN, false));
    assert_eq!(session.heard().len(), 1);
    assert_eq!(session.warnings().len(), 0);
}
