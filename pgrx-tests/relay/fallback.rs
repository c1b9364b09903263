//! If the relay cannot take a transaction, its events are received by ordinary NOTIFY, in order.

use std::time::{Duration, Instant};

use super::{
    Listener, TICKETS, TINY, assert_queue_empties, fell_back, insert, pid, relayed, shared,
    wait_for_event, wait_for_relay,
};

/// More than the smallest queue holds.
fn many(first: i64, tenant: &str) -> String {
    format!("INSERT INTO tickets SELECT {first} + i, '{tenant}', i FROM generate_series(0, 99) i")
}

#[test]
fn every_fallback_is_received_and_counted() {
    let cluster = relayed(&[TINY]);
    let mut session = cluster.superuser();
    session.run("CREATE DATABASE other");
    let mut other = cluster.superuser_of("other");
    other.run(TICKETS);
    let mut listener = Listener::of(cluster.superuser(), "t");
    let mut elsewhere = Listener::of(cluster.superuser_of("other"), "t");

    session.run(&format!("SET civic.relay = off; {}; RESET civic.relay", insert(1, "t", "off")));
    assert_eq!(listener.receive_until("off"), ["off"]);
    assert_eq!(fell_back(&mut session, "off"), 1);

    session.run(&many(100, "t"));
    assert_eq!(listener.receive_until("99"), (0..100).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!(fell_back(&mut session, "too_large"), 1);

    other.run(&insert(1, "t", "other"));
    assert_eq!(elsewhere.receive_until("other"), ["other"]);
    assert_eq!(fell_back(&mut session, "other_database"), 1);
    assert!(listener.statuses.is_empty());

    let relay = wait_for_relay(&mut session);
    cluster.hold(&relay);
    let mut id = 1000;
    while fell_back(&mut session, "queue_full") == 0 {
        id += 1;
        session.run(&insert(id, "t", &id.to_string()));
    }
    cluster.signal("CONT", &relay);
    session.run(&insert(id + 1, "t", "end"));
    let mut received = listener.receive_until("end");
    // The relay was stopped for longer than a transaction waits.
    received.sort();
    let mut expected: Vec<_> = (1001..=id).map(|id| id.to_string()).collect();
    expected.push("end".to_owned());
    assert_eq!(received, expected);
    assert_queue_empties(&mut session);
}

/// A transaction that waits in its commit for the queue of a stopped relay.
struct Waiting {
    process: String,
    commit: std::thread::JoinHandle<Result<(), postgres::Error>>,
}

fn fall_back_behind_the_queue(
    cluster: &crate::pg_tests::support::cluster::Cluster,
    admin: &mut crate::pg_tests::support::Session,
) -> Waiting {
    let mut writer = cluster.superuser();
    writer.run("SET civic.relay = off");
    let process = pid(&mut writer);
    let commit = std::thread::spawn(move || {
        writer.client().batch_execute("UPDATE tickets SET status = 'second' WHERE id = 1")
    });
    wait_for_event(admin, &process, "Extension");
    Waiting { process, commit }
}

#[test]
fn a_fallback_does_not_overtake_queued_events() {
    let cluster = relayed(&[]);
    let mut admin = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    let relay = wait_for_relay(&mut admin);
    cluster.hold(&relay);
    admin.run(&insert(1, "t", "first"));
    let waiting = fall_back_behind_the_queue(&cluster, &mut admin);
    cluster.signal("CONT", &relay);
    assert_eq!(listener.receive_until("second"), ["first", "second"]);
    waiting.commit.join().expect("no panic").expect("it commits");
}

#[test]
fn a_transaction_that_waits_for_the_queue_can_be_cancelled_and_terminated() {
    let cluster = relayed(&[]);
    let mut admin = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    let relay = wait_for_relay(&mut admin);
    cluster.hold(&relay);
    admin.run(&insert(1, "t", "first"));
    for (function, sqlstate) in [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")]
    {
        let waiting = fall_back_behind_the_queue(&cluster, &mut admin);
        admin.run(&format!("SELECT {function}({})", waiting.process));
        let error = waiting.commit.join().expect("no panic").expect_err(function);
        // The driver may see the closed connection before the message.
        if let Some(error) = error.as_db_error() {
            assert_eq!(error.code().code(), sqlstate, "{function}: {error}");
        } else {
            assert_eq!(function, "pg_terminate_backend", "{error}");
        }
        // Everything it held is released, and it has left no other trace.
        admin.run("SET lock_timeout = '1min'; UPDATE tickets SET status = 'first' WHERE id = 1");
    }
    cluster.signal("CONT", &relay);
    admin.run(&insert(2, "t", "end"));
    assert_eq!(listener.receive_until("end"), ["first", "first", "first", "end"]);
    assert_queue_empties(&mut admin);
    let log = cluster.log();
    assert!(!log.contains("borrowed") && !log.contains("panicked"), "{log}");
}

#[test]
fn a_stopped_relay_delays_one_write_and_not_every_write() {
    let cluster = relayed(&[]);
    let mut session = cluster.superuser();
    let relay = wait_for_relay(&mut session);
    cluster.hold(&relay);
    session.run(&insert(1, "t", "queued"));
    session.run("SET civic.relay = off");
    session.run(&insert(2, "t", "waits"));
    let start = Instant::now();
    for id in 3..43 {
        session.run(&insert(id, "t", "does not"));
    }
    // Each delayed by three seconds, they would take two minutes.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    cluster.signal("CONT", &relay);
    assert_queue_empties(&mut session);
}

#[test]
fn changes_of_a_ticket_are_received_in_commit_order_by_either_route() {
    let cluster = relayed(&[TINY]);
    let mut admin = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    admin.run("INSERT INTO tickets VALUES (1, 'quiet', '0')");
    std::thread::scope(|scope| {
        for (relay, large) in [("on", false), ("off", false), ("on", true)] {
            let mut session = cluster.superuser();
            scope.spawn(move || {
                session.run(&format!("SET civic.relay = {relay}"));
                for round in 0..100 {
                    let filling = if large && round % 4 == 0 { many(10_000 + round * 100, "quiet") } else { String::new() };
                    session.run(&format!(
                        "BEGIN; UPDATE tickets SET tenant_id = 't', status = status::int + 1 WHERE id = 1;
                         {filling}; COMMIT"
                    ));
                }
            });
        }
    });
    assert_eq!(listener.receive_until("300"), (1..=300).map(|i| i.to_string()).collect::<Vec<_>>());
    for reason in ["off", "too_large"] {
        assert!(fell_back(&mut admin, reason) > 0, "{reason}");
    }
    assert!(super::stats(&mut admin, "delivered").parse::<u64>().expect("a number") > 100);
}

#[test]
fn a_transaction_that_also_notifies_itself_is_received_whole() {
    let cluster = shared();
    let mut session = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "mixed");
    session.run(&format!(
        "BEGIN; SELECT pg_notify('ticket_updates:mixed', '{{\"status\": \"own\"}}'); {}; COMMIT",
        insert(50_000, "mixed", "ours")
    ));
    session.run(&insert(50_001, "mixed", "end"));
    let mut received = listener.receive_until("end");
    received.sort();
    assert_eq!(received, ["end", "ours", "own"]);
}
