//! Counted changes by every route, and under concurrent writers: what is listed and what is counted is
//! together what was committed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fuzz::Random;
use super::{TICKETS, TINY, assert_queue_empties, fell_back, relayed};
use crate::pg_tests::support::{Session, extent, wait_until};

/// How many changes of each municipality a listener has received, listed and counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Received {
    listed: u64,
    counted: u64,
    reports: u64,
}

fn receive(listener: &mut Session, received: &mut BTreeMap<String, Received>) {
    for (channel, payload) in listener.heard() {
        let event: Value = serde_json::from_str(&payload).expect("JSON");
        let municipality = channel.strip_prefix("ticket_updates:").expect("ours").to_owned();
        let own = received.entry(municipality).or_default();
        if event["type"] == "BULK" {
            let counts = ["insert", "update", "delete"].map(|key| event[key].as_u64().expect(key));
            own.counted += counts.iter().sum::<u64>();
            own.reports += 1;
        } else {
            own.listed += 1;
        }
    }
}

fn insert(first: i64, count: i64, tenant: &str) -> String {
    let last = first + count - 1;
    format!("INSERT INTO tickets SELECT i, '{tenant}', i FROM generate_series({first}, {last}) i")
}

#[test]
fn every_route_reports_what_is_counted_once() {
    let cluster = relayed(&[TINY, "max_prepared_transactions=2"]);
    let mut admin = cluster.superuser();
    admin.run("CREATE DATABASE other");
    cluster.superuser_of("other").run(TICKETS);
    let prepared: &[&str] = &["PREPARE TRANSACTION 'later'", "COMMIT PREPARED 'later'"];
    for (database, relay, after, end, reason) in [
        ("postgres", "on", 3, &["COMMIT"][..], None),
        ("postgres", "off", 3, &["COMMIT"], Some("off")),
        ("postgres", "on", 100, &["COMMIT"], Some("too_large")),
        ("other", "on", 3, &["COMMIT"], Some("other_database")),
        ("postgres", "on", 3, prepared, None),
    ] {
        let case = format!("{database}, relay {relay}, after {after}, {end:?}");
        let before = reason.map(|reason| fell_back(&mut admin, reason));
        let mut listener = cluster.superuser_of(database);
        listener.run("LISTEN \"ticket_updates:t\"");
        let mut writer = cluster.superuser_of(database);
        writer.run(&format!(
            "SET civic.relay = {relay}; SET civic.bulk_after = {after}; TRUNCATE tickets"
        ));
        writer.run("BEGIN");
        writer.run(&insert(1, 500, "t"));
        end.iter().for_each(|statement| writer.run(statement));
        let mut received = BTreeMap::new();
        let expected = Received { listed: after, counted: 500 - after, reports: 1 };
        wait_until(&case, || {
            receive(&mut listener, &mut received);
            received.get("t") == Some(&expected)
        });
        if let (Some(reason), Some(before)) = (reason, before) {
            assert!(fell_back(&mut admin, reason) > before, "{case}");
        }
        assert_eq!(writer.warnings().len(), 0, "{case}");
    }
}

const WRITERS: u64 = 4;
const MUNICIPALITIES: u64 = 3;
/// For how long, for a part of the test and for the whole.
const LENGTH: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(30));

/// One random transaction: its statements, and how many changes it makes of each municipality if it commits.
fn transaction(
    random: &mut Random,
    next: &mut i64,
) -> (Vec<String>, Option<BTreeMap<String, u64>>) {
    let after = [0, 1, 7, 60, 1000][random.below(5) as usize];
    let mut statements = vec![format!("BEGIN; SET LOCAL civic.bulk_after = {after}")];
    let mut changes = BTreeMap::new();
    for _ in 0..1 + random.below(5) {
        let tenant = format!("t{}", random.below(MUNICIPALITIES));
        let most = if random.below(10) == 0 { 2000 } else { 30 };
        let count = 1 + random.below(most);
        let (first, last) = (*next, *next + count as i64 - 1);
        *next += count as i64;
        let insert = insert(first, count as i64, &tenant);
        let own = format!("id BETWEEN {first} AND {last}");
        let update = format!("UPDATE tickets SET status = 'x' WHERE {own}");
        let made = match random.below(6) {
            0 => {
                statements.push(format!("SAVEPOINT s; {insert}; ROLLBACK TO s"));
                0
            }
            1 => {
                statements.push(format!(
                    "DO $$ BEGIN {insert}; {update}; PERFORM 1/0;
                     EXCEPTION WHEN division_by_zero THEN NULL; END $$"
                ));
                0
            }
            2 => {
                statements.push(format!("SAVEPOINT s; {insert}; RELEASE s; {update}"));
                2 * count
            }
            3 => {
                statements
                    .push(format!("{insert}; SAVEPOINT s; {update}; ROLLBACK TO s; {update}"));
                2 * count
            }
            _ => {
                statements.push(insert);
                count
            }
        };
        *changes.entry(tenant).or_default() += made;
    }
    if random.below(6) == 0 {
        statements.push("ROLLBACK".to_owned());
        return (statements, None);
    }
    statements.push("COMMIT".to_owned());
    (statements, Some(changes))
}

fn write(mut session: Session, writer: u64, over: &AtomicBool) -> BTreeMap<String, u64> {
    let mut random = Random(0x0b01_1c00 + writer);
    let (mut committed, mut next) = (BTreeMap::new(), (writer as i64 + 1) << 32);
    while !over.load(Ordering::Relaxed) {
        let (statements, changes) = transaction(&mut random, &mut next);
        session
            .run(&format!("SET civic.relay = {}", if random.below(8) == 0 { "off" } else { "on" }));
        session.run(&statements.join("; "));
        for (tenant, count) in changes.unwrap_or_default() {
            *committed.entry(tenant).or_default() += count;
        }
    }
    committed
}

#[test]
fn listed_and_counted_changes_are_together_what_was_committed() {
    let cluster = relayed(&["civic.relay_queue_size=64"]);
    let mut listener = cluster.superuser();
    for municipality in 0..MUNICIPALITIES {
        listener.run(&format!("LISTEN \"ticket_updates:t{municipality}\""));
    }
    let mut received = BTreeMap::new();
    let over = AtomicBool::new(false);
    let mut committed: BTreeMap<String, u64> = BTreeMap::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (session, over) = (cluster.superuser(), &over);
                scope.spawn(move || write(session, writer, over))
            })
            .collect();
        let end = Instant::now() + extent(LENGTH.0, LENGTH.1);
        while !writers.iter().all(|writer| writer.is_finished()) {
            receive(&mut listener, &mut received);
            over.store(Instant::now() > end, Ordering::Relaxed);
        }
        for writer in writers {
            for (tenant, count) in writer.join().expect("no write fails") {
                *committed.entry(tenant).or_default() += count;
            }
        }
    });
    assert_queue_empties(&mut cluster.superuser());
    let sum = |received: &BTreeMap<String, Received>| -> BTreeMap<String, u64> {
        let total = |own: &Received| own.listed + own.counted;
        received.iter().map(|(tenant, own)| (tenant.clone(), total(own))).collect()
    };
    // What was handed to the server arrives in order: after this event nothing is missing.
    cluster.superuser().run("SELECT pg_notify('ticket_updates:t0', '{\"type\": \"end\"}')");
    let end = BTreeMap::from([("t0".to_owned(), 1)]);
    for (tenant, count) in end {
        *committed.entry(tenant).or_default() += count;
    }
    wait_until("everything is received", || {
        receive(&mut listener, &mut received);
        sum(&received).values().sum::<u64>() >= committed.values().sum::<u64>()
    });
    assert_eq!(sum(&received), committed);
    assert!(received.values().all(|own| own.listed > 0 && own.reports > 0), "{received:?}");
}
