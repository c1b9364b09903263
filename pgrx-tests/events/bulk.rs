//! A transaction that changes many tickets: beyond `civic.bulk_after` its changes are counted.

use serde_json::{Value, json};

use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT};

const COLUMNS: &str = "id int, tenant_id text, status text, category text, is_sensitive boolean";

/// Lists two changes of each municipality.
fn session() -> Session {
    let mut session = Database::plain().superuser();
    session.listens_to(TENANT);
    session.listens_to(OTHER_TENANT);
    session.run("SET civic.bulk_after = 2");
    session.makes_ticket_table(COLUMNS);
    session
}

fn insert(tenant: &str, first: u32, last: u32) -> String {
    format!(
        "INSERT INTO ticket SELECT i, '{tenant}', 'open', 'gbv', false
         FROM generate_series({first}, {last}) i;"
    )
}

/// What a dashboard knows of an event: its channel without the prefix, and the ticket, or what is counted.
fn seen(session: &mut Session) -> Vec<(String, Value)> {
    let heard = session.heard();
    heard.into_iter().map(|(channel, payload)| shown(&channel, &payload)).collect()
}

fn shown(channel: &str, payload: &str) -> (String, Value) {
    let event: Value = serde_json::from_str(payload).expect("JSON");
    let who = channel.strip_prefix("ticket_updates:").unwrap_or(channel);
    let who = who.replace(TENANT, "town").replace(OTHER_TENANT, "city");
    let municipality = who.split(':').next().map(str::to_owned);
    if event["type"] != json!("BULK") {
        return (who, event["ticket_id"].clone());
    }
    let keys: Vec<_> = event.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected =
        ["delete", "insert", "is_sensitive", "municipality_id", "type", "update", "updated_at"];
    assert_eq!(keys.iter().filter(|key| **key != "id").count(), expected.len(), "{event}");
    assert!(expected.iter().all(|key| keys.contains(key)), "{event}");
    assert!(event["updated_at"].as_f64().is_some_and(|time| time > 1.7e9), "{event}");
    let named = event["municipality_id"].as_str().expect("text");
    assert_eq!(Some(named.replace(TENANT, "town").replace(OTHER_TENANT, "city")), municipality);
    let counts = ["insert", "update", "delete"].map(|key| event[key].clone());
    let counts = if event["is_sensitive"] == json!(true) {
        json!({ "sensitive": counts })
    } else {
        json!(counts)
    };
    (who, counts)
}

fn of(who: &str, event: Value) -> (String, Value) {
    (who.to_owned(), event)
}

#[test]
fn changes_beyond_the_threshold_are_counted_and_reported_once() {
    let mut session = session();
    session.run(&format!(
        "BEGIN; {} UPDATE ticket SET status = 'closed' WHERE id > 2; DELETE FROM ticket WHERE id = 5;
         COMMIT",
        insert(TENANT, 1, 5)
    ));
    let expected = [of("town", json!("1")), of("town", json!("2")), of("town", json!([3, 3, 1]))];
    assert_eq!(seen(&mut session), expected);
    session.run("UPDATE ticket SET status = 'open' WHERE id < 3");
    assert_eq!(seen(&mut session).len(), 2, "each transaction begins anew");
    assert_eq!(session.warnings().len(), 0);
}

#[test]
fn the_threshold_is_a_thousand_and_zero_lists_everything() {
    let mut session = session();
    session.run("RESET civic.bulk_after");
    session.run(&insert(TENANT, 1, 1003));
    let events = seen(&mut session);
    assert_eq!(events.len(), 1001);
    assert_eq!(events.last(), Some(&of("town", json!([3, 0, 0]))));
    session.run(&format!("SET civic.bulk_after = 0; {}", insert(TENANT, 1, 1003)));
    assert_eq!(seen(&mut session).len(), 1003);
    for value in ["-1", "'many'"] {
        assert_eq!(session.sqlstate(&format!("SET civic.bulk_after = {value}")), "22023");
    }
}

/// At zero, one transaction could fill the limit that Realtime has for all municipalities.
#[test]
fn only_a_superuser_sets_the_threshold() {
    let mut session = session();
    session.run("SELECT civic.tenant_id()");
    session.run("SET ROLE authenticated");
    assert_eq!(session.sqlstate("SET civic.bulk_after = 0"), "42501");
}

#[test]
fn each_municipality_is_counted_by_itself() {
    let mut session = session();
    session.run(&format!(
        "BEGIN; {} {} {} COMMIT",
        insert(TENANT, 1, 4),
        insert(OTHER_TENANT, 11, 12),
        insert(TENANT, 5, 5)
    ));
    let expected = [
        of("town", json!("1")),
        of("town", json!("2")),
        of("city", json!("11")),
        of("city", json!("12")),
        of("town", json!([3, 0, 0])),
    ];
    assert_eq!(seen(&mut session), expected);
    // A ticket that moves is a DELETE in one and an UPDATE in the other.
    session.run(&format!("UPDATE ticket SET tenant_id = '{OTHER_TENANT}' WHERE id <= 5"));
    let bulk: Vec<_> =
        seen(&mut session).into_iter().filter(|(_, event)| event.is_array()).collect();
    assert_eq!(bulk, [of("town", json!([0, 0, 3])), of("city", json!([0, 3, 0]))]);
}

#[test]
fn savepoints_that_roll_back_are_not_counted() {
    let mut session = session();
    session.run(&format!(
        "BEGIN; {} SAVEPOINT a; {} ROLLBACK TO a; {} SAVEPOINT b; {} RELEASE b;
         SAVEPOINT c; {} SAVEPOINT d; {} RELEASE d; ROLLBACK TO c; COMMIT",
        insert(TENANT, 1, 1),
        insert(TENANT, 101, 150),
        insert(TENANT, 2, 4),
        insert(TENANT, 5, 6),
        insert(TENANT, 201, 250),
        insert(TENANT, 301, 350),
    ));
    let expected = [of("town", json!("1")), of("town", json!("2")), of("town", json!([4, 0, 0]))];
    assert_eq!(seen(&mut session), expected);
    session.run(&format!("BEGIN; {} ROLLBACK", insert(TENANT, 1, 9)));
    // A block with EXCEPTION for each row, as imports have.
    session.run(&format!(
        "DO $$ BEGIN FOR i IN 1..100 LOOP BEGIN
             INSERT INTO ticket VALUES (i, '{TENANT}', 'open', 'x', false);
             IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;
         EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$"
    ));
    let expected = [of("town", json!("1")), of("town", json!("3")), of("town", json!([48, 0, 0]))];
    assert_eq!(seen(&mut session), expected);
}

/// Sensitive and ordinary changes count apart, and a ticket that becomes sensitive later in the transaction
/// counts as sensitive throughout.
#[test]
fn sensitive_changes_count_apart_and_reach_whom_each_would_reach() {
    let sensitive = json!({"sensitive": [2, 1, 0]});
    for (mode, expected) in [
        (
            "redacted",
            vec![
                of("town", json!([2, 0, 0])),
                of("town", sensitive.clone()),
                of("town:sensitive", sensitive.clone()),
            ],
        ),
        ("restricted", vec![of("town", json!([2, 0, 0])), of("town:sensitive", sensitive)]),
        ("full", vec![of("town", json!([3, 0, 0])), of("town", json!({"sensitive": [1, 1, 0]}))]),
    ] {
        let mut session = session();
        session.run(&format!("SET civic.sensitive_events = '{mode}'"));
        // Counted are 3, 4, 8, and 9 twice: two changes of sensitive tickets are listed before.
        session.run(&format!(
            "BEGIN; {} UPDATE ticket SET is_sensitive = true WHERE id = 4;
             INSERT INTO ticket VALUES (7, '{TENANT}', 'open', 'gbv', NULL),
                 (8, '{TENANT}', 'open', 'gbv', false), (9, '{TENANT}', 'open', 'gbv', true);
             UPDATE ticket SET status = 'closed' WHERE id = 9; COMMIT",
            insert(TENANT, 1, 4)
        ));
        let bulk: Vec<_> =
            seen(&mut session).into_iter().filter(|(_, event)| !event.is_string()).collect();
        assert_eq!(bulk, expected, "{mode}");
    }
}

/// Otherwise a dashboard could tell from the number of listed events that there are others.
#[test]
fn sensitive_changes_do_not_shift_what_the_shared_channel_receives() {
    let seen_beside = |sensitive: &str| {
        let mut session = session();
        session.run("SET civic.sensitive_events = 'restricted'");
        session.run(&format!("BEGIN; {sensitive} {} COMMIT", insert(TENANT, 1, 5)));
        let mut seen = seen(&mut session);
        seen.retain(|(who, _)| who == "town");
        seen
    };
    let gbv = format!(
        "INSERT INTO ticket SELECT i, '{TENANT}', 'open', 'gbv', true FROM generate_series(11, 19) i;"
    );
    assert_eq!(seen_beside(&gbv), seen_beside(""));
}

/// The last deferred trigger decides too.
#[test]
fn no_change_of_a_ticket_that_a_deferred_trigger_makes_sensitive_counts_as_ordinary() {
    let mut session = session();
    session.run(
        "CREATE FUNCTION classify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE ticket SET is_sensitive = true WHERE id = NEW.id AND NOT is_sensitive;
             RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER classify AFTER INSERT ON ticket DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION classify()",
    );
    session.run("SET civic.sensitive_events = 'restricted'");
    session.run(&insert(TENANT, 1, 5));
    let events = seen(&mut session);
    assert!(events.iter().all(|(who, _)| who == "town:sensitive"), "{events:?}");
    let expected = of("town:sensitive", json!({"sensitive": [3, 3, 0]}));
    assert_eq!(events.last(), Some(&expected));
}

#[test]
fn events_of_the_application_are_never_counted() {
    let mut session = session();
    session.run(&format!(
        "BEGIN; {} SELECT civic.publish('{TENANT}', jsonb_build_object('type', 'x', 'ticket_id', i))
         FROM generate_series(1, 5) i; {} COMMIT",
        insert(TENANT, 1, 3),
        insert(TENANT, 4, 4)
    ));
    let events = seen(&mut session);
    assert_eq!(events.iter().filter(|(_, event)| event.is_number()).count(), 5);
    assert_eq!(events.last(), Some(&of("town", json!([2, 0, 0]))));
    // They do not count towards the threshold either.
    session.run(&format!(
        "BEGIN; SELECT civic.publish('{TENANT}', '{{\"type\": \"x\"}}') FROM generate_series(1, 5);
         {} COMMIT",
        insert(TENANT, 5, 6)
    ));
    assert!(seen(&mut session).iter().all(|(_, event)| !event.is_array()));
}

/// Topic and event of each message, which are deleted.
fn broadcasts(session: &mut Session) -> Vec<(String, Value)> {
    let messages = session.messages();
    session.run("DELETE FROM realtime.messages");
    let message = |(topic, event, payload): (String, String, Value)| {
        assert_eq!(payload["type"], json!(event));
        let is_counted = event == "BULK" || topic.starts_with("ticket_owner:");
        if is_counted { shown(&topic, &payload.to_string()) } else { (topic, json!(event)) }
    };
    messages.into_iter().map(message).collect()
}

#[test]
fn realtime_receives_the_same_events() {
    let mut session = Database::realtime().superuser();
    session.run("SET civic.bulk_after = 2");
    session.listens_to(TENANT);
    session.run(&format!(
        "BEGIN; INSERT INTO tickets (tenant_id, category, is_sensitive)
             SELECT '{TENANT}', 'gbv', i > 6 FROM generate_series(1, 10) i; COMMIT"
    ));
    let expected = [
        of("town", json!([4, 0, 0])),
        of("town", json!({"sensitive": [2, 0, 0]})),
        of("town:sensitive", json!({"sensitive": [2, 0, 0]})),
    ];
    assert_eq!(broadcasts(&mut session)[6..], expected);
    assert_eq!(seen(&mut session)[6..], expected);
    assert_eq!(session.warnings().len(), 0);
}

/// A BULK for each owner would be as many broadcasts as changes, and Realtime has one limit for all.
#[test]
fn owners_receive_what_is_listed_and_nothing_of_what_is_counted() {
    let mut session = Database::realtime().superuser();
    session.run("SET civic.bulk_after = 2; SET civic.event_transport = realtime");
    session.run(&format!(
        "INSERT INTO tickets (tenant_id, user_id) SELECT '{TENANT}', gen_random_uuid()
         FROM generate_series(1, 9)"
    ));
    let topics: Vec<_> = broadcasts(&mut session).into_iter().map(|(topic, _)| topic).collect();
    let to_owners = topics.iter().filter(|topic| topic.starts_with("ticket_owner:")).count();
    assert_eq!((topics.len(), to_owners), (2 + 2 + 1, 2));
    assert_eq!(topics[4], "town");
}

/// Code on the table of messages that makes a ticket sensitive after it was counted as ordinary.
#[test]
fn a_trigger_of_realtime_cannot_make_a_counted_ticket_sensitive_unseen() {
    let mut session = Database::realtime().superuser();
    session.run("SET civic.bulk_after = 1");
    session.listens_to(TENANT);
    session.run(
        "GRANT SELECT, UPDATE ON tickets TO supabase_realtime_admin;
         CREATE FUNCTION public.meddles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE public.tickets SET is_sensitive = true WHERE status = 'last' AND NOT is_sensitive;
             RETURN NEW; END $$;
         CREATE TRIGGER meddles BEFORE INSERT ON realtime.messages
             FOR EACH ROW WHEN (NEW.event = 'BULK') EXECUTE FUNCTION public.meddles()",
    );
    session.run(&format!(
        "INSERT INTO tickets (tenant_id, status, is_sensitive)
             VALUES ('{TENANT}', 'first', false), ('{TENANT}', 'more', false), ('{TENANT}', 'last', false)"
    ));
    // The message of the counts and what it has changed are undone together.
    assert_eq!(session.text("SELECT count(*) FROM tickets WHERE is_sensitive"), "0");
    assert_eq!(broadcasts(&mut session).len(), 1);
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message().starts_with("1 event was not sent to Supabase Realtime"));
    assert_eq!(seen(&mut session)[1..], [of("town", json!([2, 0, 0]))]);
}

/// Its changes are counted in rounds, and notified together.
#[test]
fn tickets_that_a_trigger_of_realtime_adds_are_counted_too() {
    let mut session = Database::realtime().superuser();
    session.run("SET civic.bulk_after = 1");
    session.listens_to(TENANT);
    session.run(&format!(
        "GRANT SELECT, INSERT ON tickets TO supabase_realtime_admin;
         CREATE FUNCTION public.meddles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT count(*) FROM public.tickets) < 9 THEN
                 INSERT INTO public.tickets (tenant_id, status)
                     SELECT '{TENANT}', 'more' FROM generate_series(1, 3);
             END IF; RETURN NEW; END $$;
         CREATE TRIGGER meddles BEFORE INSERT ON realtime.messages
             FOR EACH ROW WHEN (NEW.event = 'BULK') EXECUTE FUNCTION public.meddles();
         INSERT INTO tickets (tenant_id, status) SELECT '{TENANT}', 'first' FROM generate_series(1, 3)"
    ));
    let number = |events: &[(String, Value)]| {
        let numbers = events.iter().map(|(_, event)| event[0].as_u64().unwrap_or(1));
        numbers.sum::<u64>()
    };
    let tickets = session.text("SELECT count(*) FROM tickets");
    let stored = broadcasts(&mut session);
    assert_eq!(number(&stored).to_string(), tickets, "{stored:?}");
    let notified = seen(&mut session);
    assert_eq!(number(&notified).to_string(), tickets, "{notified:?}");
    assert_eq!(notified.iter().filter(|(_, event)| event.is_array()).count(), 1);
    assert_eq!(session.warnings().len(), 0);
}
