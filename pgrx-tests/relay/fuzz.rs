//! Concurrent writers with random transactions; a listener must receive exactly what they
//! committed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Listener, TINY, assert_queue_empties, fell_back, relayed};
use crate::pg_tests::support::{DEADLINE, Session, extent};

const WRITERS: u64 = 6;
/// Stops after this many fallbacks, or after this time: for a part of the test, and for the whole.
const FALLEN_BACK: (u64, u64) = (400, 2500);
const LONGEST: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(35));
const TICKETS_CHANGED: u64 = 5;
const SEED: u64 = 0x00c1_71c5_eed0;

/// Random numbers, reproducible by seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ bits >> 31) % limit
    }
}

/// Sends the events `transaction/first` to `transaction/last`, each different.
fn publish(transaction: &str, first: u64, last: u64) -> String {
    format!(
        "SELECT count(civic.publish('t', jsonb_build_object('type', 'x', 'status', '{transaction}/' || i)))
         FROM generate_series({first}, {last}) i"
    )
}

/// One random transaction. Returns its statements, and the statuses of its events if it commits.
fn transaction(random: &mut Random, name: &str) -> (Vec<String>, Option<Vec<String>>) {
    let mut statements = vec!["BEGIN".to_owned()];
    let mut kept: Vec<String> = vec![];
    // At most two tickets, in ascending order, so that no two writers wait for each other.
    let first = random.below(TICKETS_CHANGED);
    let tickets = [first, first + 1 + random.below(TICKETS_CHANGED)];
    let changed = random.below(3) as usize;
    for id in tickets.iter().take(changed).filter(|id| **id < TICKETS_CHANGED) {
        statements.push(format!(
            "UPDATE tickets SET status = 'ticket {id}/' || split_part(status, '/', 2)::int + 1 || '/{name}'
             WHERE id = {id}"
        ));
        kept.push(format!("ticket {id}"));
    }
    let mut number = 0;
    for _ in 0..1 + random.below(3) {
        let size = match random.below(400) {
            0 => 10_000,
            1..20 => 1 + random.below(500),
            _ => 1 + random.below(20),
        };
        let (from, to) = (number, number + size - 1);
        number += size;
        let events = publish(name, from, to);
        match random.below(6) {
            0 => statements.push(format!("SAVEPOINT s; {events}; ROLLBACK TO s")),
            1 => statements.push(format!(
                "DO $$ BEGIN PERFORM * FROM ({events}) e; PERFORM 1/0;
                 EXCEPTION WHEN division_by_zero THEN NULL; END $$"
            )),
            two_or_more => {
                statements.push(if two_or_more == 2 {
                    format!("SAVEPOINT s; {events}; RELEASE s")
                } else {
                    events
                });
                kept.extend((from..=to).map(|event| format!("{name}/{event}")));
            }
        }
    }
    match random.below(8) {
        0 => statements.push("ROLLBACK".to_owned()),
        1 => statements.push("SELECT 1/0".to_owned()),
        _ => {
            statements.push("COMMIT".to_owned());
            return (statements, Some(kept));
        }
    }
    (statements, None)
}

/// Runs random transactions until stopped. Returns the events of each committed one.
fn write(mut session: Session, writer: u64, over: &AtomicBool) -> Vec<(String, Vec<String>)> {
    let mut random = Random(SEED + writer);
    let mut committed = vec![];
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        let name = format!("{writer}.{number}");
        number += 1;
        let (statements, events) = transaction(&mut random, &name);
        session
            .run(&format!("SET civic.relay = {}", if random.below(8) == 0 { "off" } else { "on" }));
        let result = session.client().batch_execute(&statements.join("; "));
        match events {
            Some(events) => {
                result.expect("it commits");
                committed.push((name, events));
            }
            None => session.run("ROLLBACK"),
        }
    }
    committed
}

#[test]
fn exactly_the_committed_events_are_received_whole_and_in_order() {
    let cluster = relayed(&[TINY]);
    let mut admin = cluster.superuser();
    admin.run(&format!(
        "INSERT INTO tickets SELECT id, 't', 'ticket ' || id || '/0/start' FROM generate_series(0, {}) id",
        TICKETS_CHANGED - 1
    ));
    assert_queue_empties(&mut admin);
    let mut listener = Listener::of(cluster.superuser(), "t");
    let reasons = ["queue_full", "too_large", "off"];
    let fallen_back = |admin: &mut Session| reasons.map(|reason| fell_back(admin, reason));
    let over = AtomicBool::new(false);
    let committed: Vec<(String, Vec<String>)> = std::thread::scope(|scope| {
        let over = &over;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let session = cluster.superuser();
                scope.spawn(move || write(session, writer, over))
            })
            .collect();
        let enough = extent(FALLEN_BACK.0, FALLEN_BACK.1);
        let end = Instant::now() + extent(LONGEST.0, LONGEST.1);
        while !writers.iter().all(|writer| writer.is_finished()) {
            listener.listen();
            let counts = fallen_back(&mut admin);
            let is_enough = counts.iter().sum::<u64>() >= enough || Instant::now() > end;
            // On a busy machine the rarest reason may need longer.
            let is_each = counts.iter().all(|count| *count > 0) || Instant::now() > end + DEADLINE;
            over.store(is_enough && is_each, Ordering::Relaxed);
        }
        writers.into_iter().flat_map(|writer| writer.join().expect("no write fails")).collect()
    });
    admin.run("SELECT civic.publish('t', '{\"type\": \"x\", \"status\": \"end\"}')");
    let mut received = listener.receive_until("end");
    assert_eq!(received.pop().as_deref(), Some("end"));

    // Each ticket's changes arrive in the order of their numbers, without gaps.
    let mut versions: HashMap<String, u64> = HashMap::new();
    // An event contains its transaction: for a ticket as the last part, otherwise as the first.
    let parts = received.iter().map(|status| match status.split('/').collect::<Vec<_>>()[..] {
        [ticket, version, name] => {
            let last = versions.entry(ticket.to_owned()).or_default();
            *last += 1;
            assert_eq!(version, last.to_string(), "{ticket} is received in the order of commits");
            (name.to_owned(), ticket.to_owned())
        }
        [name, _] => (name.to_owned(), status.clone()),
        _ => panic!("invented: {status}"),
    });
    let mut transactions: Vec<(String, Vec<String>)> = vec![];
    for (name, event) in parts {
        match transactions.last_mut() {
            Some((last, events)) if *last == name => events.push(event),
            _ => transactions.push((name, vec![event])),
        }
    }
    let mut expected: HashMap<_, _> =
        committed.into_iter().filter(|(_, events)| !events.is_empty()).collect();
    let count = expected.len();
    for (name, events) in transactions {
        let own = expected.remove(&name);
        let own =
            own.unwrap_or_else(|| panic!("{name} is received in one piece, having committed"));
        assert!(events == own, "{name}: {events:?} for {own:?}");
    }
    assert!(expected.is_empty(), "not received: {:?}", expected.keys());

    let reasons = fallen_back(&mut admin);
    let delivered = super::stats(&mut admin, "delivered");
    eprintln!(
        "seed {SEED}: {count} transactions, fell back {reasons:?}, the relay delivered {delivered}"
    );
    assert!(reasons.iter().all(|count| *count > 0), "{reasons:?}");
    assert_queue_empties(&mut admin);
}
