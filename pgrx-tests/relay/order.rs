//! What is received of transactions: only committed ones, whole, in order, after they are visible.

use std::collections::HashMap;

use super::{Listener, insert, relayed, shared, stats, wait_for_relay};

#[test]
fn only_committed_transactions_are_received() {
    let cluster = shared();
    let mut writer = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "committed");
    let cases: [(&str, &str, &[&str]); 9] = [
        ("a statement alone", "{a}", &["a"]),
        ("a rollback", "BEGIN; {a}; ROLLBACK", &[]),
        ("an error", "BEGIN; {a}; SELECT 1/0; COMMIT", &[]),
        ("a savepoint rolled back", "BEGIN; {a}; SAVEPOINT s; {b}; ROLLBACK TO s; {c}; COMMIT", &["a", "c"]),
        ("a savepoint released", "BEGIN; {a}; SAVEPOINT s; {b}; RELEASE s; {c}; COMMIT", &["a", "b", "c"]),
        (
            "a savepoint released into one that is rolled back",
            "BEGIN; SAVEPOINT r; {a}; SAVEPOINT s; {b}; RELEASE s; ROLLBACK TO r; {c}; COMMIT",
            &["c"],
        ),
        (
            "an exception that is caught",
            "DO $$ BEGIN {a}; BEGIN {b}; PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN {c}; END; END $$",
            &["a", "c"],
        ),
        (
            "exceptions one within the other",
            "DO $$ BEGIN
                BEGIN {a};
                    BEGIN {b}; PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN {c}; PERFORM 1/0; END;
                EXCEPTION WHEN division_by_zero THEN NULL; END;
                {d};
             END $$",
            &["d"],
        ),
        (
            "transactions of a procedure",
            "DO $$ BEGIN {a}; COMMIT; {b}; ROLLBACK; {c}; END $$",
            &["a", "c"],
        ),
    ];
    let mut id = 0;
    for (case, sql, expected) in cases {
        let mut sql = sql.to_owned();
        for status in ["a", "b", "c", "d"] {
            id += 1;
            let place = format!("{{{status}}}");
            sql = sql.replace(&place, &insert(id, "committed", status));
        }
        let _ = writer.client().batch_execute(&sql);
        writer.run(&format!("ROLLBACK; {}", insert(1000 + id, "committed", "end")));
        let mut received = listener.receive_until("end");
        assert_eq!(received.pop().as_deref(), Some("end"), "{case}");
        assert_eq!(received, expected, "{case}");
    }
}

#[test]
fn events_travel_through_the_relay() {
    let cluster = relayed(&[]);
    let mut writer = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    let relay = wait_for_relay(&mut writer);
    writer.run(&insert(1, "t", "one"));
    super::wait_until("it is received", || {
        listener.listen();
        listener.notifiers == [relay.clone()]
    });
    let row = writer.rows(
        "SELECT running, pid, queued, delivered, batches, queue_bytes_used, queue_bytes,
                queue_bytes_highest > 0, oldest_waiting_ms FROM civic.relay_stats()",
    );
    let row: Vec<_> = row[0].iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
    assert_eq!(row, ["t", &relay, "0", "1", "1", "0", "8388608", "t", "NULL"]);
    let reasons = stats(&mut writer, "fell_back");
    assert_eq!(
        reasons,
        r#"{"off": 0, "too_large": 0, "queue_full": 0, "not_running": 0, "other_database": 0}"#
    );
}

#[test]
fn a_received_change_is_already_visible() {
    let cluster = shared();
    let mut listener = Listener::of(cluster.superuser(), "visible");
    let mut reader = cluster.superuser();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let mut session = cluster.superuser();
            scope.spawn(move || {
                for number in 0..100 {
                    let id = 10_000 + writer * 100 + number;
                    session.run(&insert(id, "visible", &id.to_string()));
                }
            });
        }
        let mut seen = 0;
        super::wait_until("all are received", || {
            listener.listen();
            for id in std::mem::take(&mut listener.statuses) {
                let sql = format!("SELECT count(*) FROM tickets WHERE id = {id}");
                assert_eq!(reader.text(&sql), "1", "ticket {id} is received and not seen");
                seen += 1;
            }
            seen == 300
        });
    });
}

#[test]
fn the_events_of_a_transaction_stay_together_and_in_order() {
    let cluster = shared();
    let mut listener = Listener::of(cluster.superuser(), "together");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let mut session = cluster.superuser();
            scope.spawn(move || {
                for number in 0..50 {
                    session.run(&format!(
                        "INSERT INTO tickets SELECT 20000 + {writer} * 1000 + {number} * 10 + i, 'together',
                            '{writer}.{number}.' || i FROM generate_series(0, 4) i"
                    ));
                }
            });
        }
    });
    super::wait_until("all are received", || {
        listener.listen();
        listener.statuses.len() == 4 * 50 * 5
    });
    let mut next: HashMap<String, u32> = HashMap::new();
    for transaction in listener.statuses.chunks(5) {
        let (writer, rest) = transaction[0].split_once('.').expect("a dot");
        let (number, _) = rest.split_once('.').expect("a dot");
        let whole: Vec<_> = (0..5).map(|event| format!("{writer}.{number}.{event}")).collect();
        assert_eq!(transaction, whole);
        let next = next.entry(writer.to_owned()).or_default();
        assert_eq!(number, next.to_string(), "the transactions of a writer are in order");
        *next += 1;
    }
}

#[test]
fn a_text_is_received_once_per_transaction_and_in_each_transaction() {
    let cluster = relayed(&[]);
    let mut writer = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    let publish = |status: &str| {
        format!("SELECT civic.publish('t', '{{\"type\": \"x\", \"status\": \"{status}\"}}')")
    };
    let relay = wait_for_relay(&mut writer);
    // The relay finds all of them at once.
    cluster.hold(&relay);
    writer.run(&format!("BEGIN; {0}; {1}; {0}; COMMIT", publish("a"), publish("b")));
    writer.run(&format!("BEGIN; {}; {}; COMMIT", publish("c"), publish("a")));
    writer.run(&publish("a"));
    writer.run(&publish("end"));
    cluster.signal("CONT", &relay);
    // Of equal ones in a transaction the last.
    assert_eq!(listener.receive_until("end"), ["b", "a", "c", "a", "a", "end"]);
}

#[test]
fn a_synchronous_commit_is_received_when_it_is_visible() {
    let cluster = relayed(&[]);
    let mut admin = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    super::wait_for_absent_standby(&cluster);
    admin.run("SET synchronous_commit = local");
    for (id, end) in [(1, "pg_cancel_backend"), (2, "pg_terminate_backend")] {
        let mut writer = cluster.superuser();
        let process = super::pid(&mut writer);
        let status = id.to_string();
        let sql = insert(id, "t", &status);
        let commit = std::thread::spawn(move || writer.client().batch_execute(&sql));
        super::wait_for_event(&mut admin, &process, "SyncRep");
        admin.run("SELECT pg_notify('ticket_updates:t', '{\"status\": \"meanwhile\"}')");
        assert_eq!(
            listener.receive_until("meanwhile"),
            ["meanwhile"],
            "{end}: not before it is seen"
        );
        assert_eq!(admin.text(&format!("SELECT count(*) FROM tickets WHERE id = {id}")), "0");
        assert!(stats(&mut admin, "queue_bytes_used") != "0", "it waits in the queue");
        admin.run(&format!("SELECT {end}({process})"));
        assert_eq!(listener.receive_until(&status), [status.as_str()], "{end}");
        let _ = commit.join().expect("no panic");
        super::assert_queue_empties(&mut admin);
    }
}

#[test]
fn the_relay_itself_never_waits_for_a_standby() {
    let cluster = relayed(&["autovacuum=off"]);
    let mut admin = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    // The first transaction of each 32768 stores something: make it the relay's.
    let next = |admin: &mut crate::pg_tests::support::Session| -> u64 {
        admin.text("SELECT pg_snapshot_xmax(pg_current_snapshot())").parse().expect("a number")
    };
    admin.run("CREATE UNLOGGED TABLE burnt (i int)");
    let left = 32768 - next(&mut admin) % 32768;
    admin.run(&format!(
        "DO $$ BEGIN FOR i IN 2..{left} LOOP
            BEGIN INSERT INTO burnt VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END;
         END LOOP; END $$"
    ));
    assert_eq!(next(&mut admin) % 32768, 0);
    admin.run("ALTER SYSTEM SET synchronous_standby_names = 'absent'");
    admin.run("SELECT pg_reload_conf()");
    super::wait_until("it counts", || admin.text("SHOW synchronous_standby_names") == "absent");
    // The checkpointer is the process that makes the others wait.
    super::wait_until("the server knows", || {
        cluster.log().contains("parameter \"synchronous_standby_names\" changed")
    });
    admin.run("SELECT civic.publish('t', '{\"type\": \"x\", \"status\": \"end\"}')");
    assert_eq!(listener.receive_until("end"), ["end"]);
    assert_eq!(next(&mut admin) % 32768, 1);
}
