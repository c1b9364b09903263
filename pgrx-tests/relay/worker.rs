//! The worker: it sleeps when idle, can always be ended, and restarts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{
    Listener, TICKETS, TINY, assert_queue_empties, insert, pid, relayed, stats, wait_for_relay,
    wait_until,
};
use crate::pg_tests::support::cluster::Cluster;

/// Stops the writers even if a test step fails, so that the test fails instead of hanging.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two writers add numbered tickets during an action. Everything they committed must be received,
/// once, in each writer's order, and no write may fail.
fn nothing_is_lost_while(cluster: &Cluster, tenant: &str, mut happens: impl FnMut()) {
    let mut listener = Listener::of(cluster.superuser(), tenant);
    let over = AtomicBool::new(false);
    let written: Vec<i64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (mut session, over) = (cluster.superuser(), &over);
                scope.spawn(move || {
                    let mut number = 0;
                    while !over.load(Ordering::Relaxed) {
                        let id = (writer + 1) * 1_000_000 + number;
                        session.run(&insert(id, tenant, &format!("{writer}:{number}")));
                        number += 1;
                    }
                    number
                })
            })
            .collect();
        let ending = Ending(&over);
        happens();
        drop(ending);
        writers.into_iter().map(|writer| writer.join().expect("no write fails")).collect()
    });
    cluster.superuser().run(&insert(1, tenant, "end"));
    let received = listener.receive_until("end");
    for (writer, written) in written.iter().enumerate() {
        let own = received.iter().filter(|status| status.starts_with(&format!("{writer}:")));
        let expected: Vec<_> = (0..*written).map(|number| format!("{writer}:{number}")).collect();
        assert!(own.eq(&expected), "of writer {writer} all {written} are received in order");
    }
    assert_queue_empties(&mut cluster.superuser());
    cluster.superuser().run("TRUNCATE tickets");
}

#[test]
fn a_relay_terminated_under_load_restarts_and_loses_nothing() {
    let cluster = relayed(&[]);
    let mut admin = cluster.superuser();
    nothing_is_lost_while(&cluster, "t", || {
        for function in ["pg_terminate_backend", "pg_cancel_backend", "pg_terminate_backend"] {
            let relay = wait_for_relay(&mut admin);
            let delivered = stats(&mut admin, "delivered");
            wait_until("it works", || stats(&mut admin, "delivered") != delivered);
            admin.run(&format!("SELECT {function}({relay})"));
            // A cancel may arrive between two cancellable operations; then it has no effect.
            if function == "pg_terminate_backend" {
                wait_until("another runs", || wait_for_relay(&mut admin) != relay);
            }
        }
    });
    assert!(super::fell_back(&mut admin, "not_running") > 0);
    let log = cluster.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_relay_that_gathers_transactions_can_be_terminated() {
    let cluster = relayed(&[]);
    let mut session = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    for round in 0..5 {
        let relay = wait_for_relay(&mut session);
        let delivered = stats(&mut session, "delivered");
        // After a batch of many transactions it waits for more.
        cluster.hold(&relay);
        for id in 0..60 {
            session.run(&insert(round * 100 + id, "t", "some"));
        }
        cluster.signal("CONT", &relay);
        wait_until("it delivers them", || stats(&mut session, "delivered") != delivered);
        session.run(&format!("SELECT pg_terminate_backend({relay})"));
        wait_until("another runs", || wait_for_relay(&mut session) != relay);
    }
    session.run(&insert(999, "t", "end"));
    assert_eq!(listener.receive_until("end").len(), 5 * 60 + 1);
}

#[test]
fn the_relay_can_be_switched_off_and_on_under_load() {
    let cluster = relayed(&[TINY]);
    let mut admin = cluster.superuser();
    nothing_is_lost_while(&cluster, "t", || {
        for setting in ["off", "on"].repeat(4) {
            admin.run(&format!("ALTER SYSTEM SET civic.relay = {setting}"));
            admin.run("SELECT pg_reload_conf()");
            let counter = if setting == "off" { "fell_back ->> 'off'" } else { "delivered" };
            let before = stats(&mut admin, counter);
            wait_until(counter, || stats(&mut admin, counter) != before);
        }
    });
}

#[test]
fn an_idle_relay_sleeps_without_an_open_transaction() {
    let cluster = relayed(&[]);
    let mut session = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&insert(1, "t", "one"));
    assert_eq!(listener.receive_until("one"), ["one"]);
    assert_queue_empties(&mut session);
    let relay = wait_for_relay(&mut session);
    let idle = format!(
        "SELECT xact_start IS NULL AND backend_xmin IS NULL AND backend_xid IS NULL AND datname = 'postgres'
         FROM pg_stat_activity WHERE pid = {relay} AND backend_type = 'pg_civic relay'"
    );
    wait_until("no transaction is open", || session.text(&idle) == "t");
    // Each wake-up ends with going to sleep, which the system counts.
    let slept = || {
        let status = std::fs::read_to_string(format!("/proc/{relay}/status")).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).expect("a count")
    };
    wait_until("it wakes at most three times in 3 s", || {
        let before = slept();
        std::thread::sleep(Duration::from_secs(3));
        slept() - before <= 3
    });
}

#[test]
fn each_restart_of_the_relay_is_one_line_in_the_log() {
    let cluster = relayed(&[]);
    let mut session = cluster.superuser();
    let lines = |cluster: &Cluster| -> Vec<serde_json::Value> {
        let log = cluster.log();
        let restarts = log.split("the relay was started again").skip(1);
        let detail = |rest: &str| rest.split_once("DETAIL:")?.1.lines().next().map(str::to_owned);
        let details = restarts.map(|rest| detail(rest).expect("a detail"));
        details.map(|it| serde_json::from_str(it.trim()).expect("JSON")).collect()
    };
    assert_eq!(lines(&cluster).len(), 0, "its first start is none");
    let relay = wait_for_relay(&mut session);
    session.run(&format!("SELECT pg_terminate_backend({relay})"));
    wait_until("another one runs", || wait_for_relay(&mut session) != relay);
    wait_until("the line is written", || !lines(&cluster).is_empty());
    let lines = lines(&cluster);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["worker"], "relay");
    assert_eq!(lines[0]["pid"].to_string(), stats(&mut session, "pid"));
    assert_eq!(lines[0]["queued_events"], 0);
}

#[test]
fn a_relay_does_not_spin_while_a_transaction_does_not_end() {
    let cluster = relayed(&[]);
    let mut admin = cluster.superuser();
    super::wait_for_absent_standby(&cluster);
    admin.run("SET synchronous_commit = local");
    let mut writer = cluster.superuser();
    let process = pid(&mut writer);
    let commit = std::thread::spawn(move || writer.client().batch_execute(&insert(1, "t", "one")));
    super::wait_for_event(&mut admin, &process, "SyncRep");
    let relay = wait_for_relay(&mut admin);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{relay}/stat")).expect("Linux");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let fields: Vec<u64> = fields.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        // After the state come only numbers; the times are fields 14 and 15.
        fields[10] + fields[11]
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(2));
    assert!(ticks() - before < 20, "{} ticks of 200", ticks() - before);
    admin.run(&format!("SELECT pg_cancel_backend({process})"));
    commit.join().expect("no panic").expect("it commits, with a warning");
    assert_queue_empties(&mut admin);
}

#[test]
fn another_database_can_be_dropped_while_the_relay_is_idle() {
    let cluster = relayed(&[]);
    let mut session = cluster.superuser();
    session.run("SET statement_timeout = '2min'");
    for round in 0..3 {
        session.run("CREATE DATABASE other");
        let mut other = cluster.superuser_of("other");
        other.run(TICKETS);
        other.run(&insert(1, "t", "other"));
        drop(other);
        wait_until("its session is gone", || {
            session.text("SELECT count(*) FROM pg_stat_activity WHERE datname = 'other'") == "0"
        });
        session.run("DROP DATABASE other");
        assert_eq!(stats(&mut session, "running"), "t", "round {round}");
    }
}

#[test]
fn the_relays_own_database_can_be_dropped_by_force_and_recreated() {
    let cluster = Cluster::start(&["shared_preload_libraries=pg_civic", "civic.database=town"]);
    let mut admin = cluster.superuser();
    for round in 0..2 {
        admin.run("CREATE DATABASE town");
        let mut town = cluster.superuser_of("town");
        town.run(TICKETS);
        wait_for_relay(&mut town);
        let mut listener = Listener::of(cluster.superuser_of("town"), "t");
        // The new relay serves the new database.
        wait_until("it serves this database", || {
            let before = stats(&mut town, "delivered");
            town.run("UPDATE tickets SET status = 'more'; INSERT INTO tickets SELECT coalesce(max(id), 0) + 1, 't', 'some' FROM tickets");
            town.run(&format!(
                "SELECT civic.publish('t', '{{\"type\": \"x\", \"status\": \"end {round}\"}}')"
            ));
            let end = format!("end {round}");
            assert_eq!(listener.receive_until(&end).last(), Some(&end));
            stats(&mut town, "delivered") != before
        });
        admin.run("SET statement_timeout = '2min'");
        admin.run("DROP DATABASE town WITH (FORCE)");
    }
}

#[test]
fn events_of_a_dropped_database_are_not_delivered_in_its_successor() {
    let cluster = Cluster::start(&["shared_preload_libraries=pg_civic", "civic.database=town"]);
    let mut admin = cluster.superuser();
    admin.run("CREATE EXTENSION pg_civic");
    admin.run("CREATE DATABASE town");
    let mut town = cluster.superuser_of("town");
    town.run(TICKETS);
    let relay = wait_for_relay(&mut town);
    admin.run("SET synchronous_commit = local");
    super::wait_for_absent_standby(&cluster);
    let mut writer = cluster.superuser_of("town");
    let process = pid(&mut writer);
    let commit = std::thread::spawn(move || writer.client().batch_execute(&insert(1, "t", "old")));
    super::wait_for_event(&mut admin, &process, "SyncRep");
    // Both transactions end without a relay; the first is ahead of the second in the queue.
    town.run(&format!("SET synchronous_commit = local; {}", insert(2, "t", "old")));
    admin.run(&format!("SELECT pg_terminate_backend({relay})"));
    wait_until("it is gone", || stats(&mut admin, "running") == "f");
    admin.run("DROP DATABASE town WITH (FORCE)");
    let _ = commit.join().expect("no panic");
    admin.run("CREATE DATABASE town");
    let mut listener = Listener::of(cluster.superuser_of("town"), "t");
    assert!(stats(&mut admin, "queue_bytes_used") != "0", "something is left");
    wait_for_relay(&mut admin);
    assert_queue_empties(&mut admin);
    let mut town = cluster.superuser_of("town");
    town.run("SET synchronous_commit = local; CREATE EXTENSION pg_civic");
    town.run("SELECT civic.publish('t', '{\"type\": \"x\", \"status\": \"end\"}')");
    assert_eq!(listener.receive_until("end"), ["end"]);
}
