//! Crashes and shutdowns under load: afterwards writing and receiving work again without manual
//! steps.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Listener, TINY, assert_queue_empties, insert, pid, relayed, wait_for_relay};
use crate::pg_tests::support::cluster::Cluster;

/// Writes until stopped, reconnecting whenever the server ends the session. Returns the number of
/// successful writes. A write may only fail together with the connection.
fn write(cluster: &Cluster, writer: i64, over: &AtomicBool) -> i64 {
    let (mut tried, mut written) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let Ok(mut session) = cluster.connect("postgres") else {
            std::thread::sleep(std::time::Duration::from_millis(5));
            continue;
        };
        while !over.load(Ordering::Relaxed) {
            tried += 1;
            let sql = insert(writer * 1_000_000 + tried, "t", "load");
            let Err(error) = session.client().batch_execute(&sql) else {
                written += 1;
                continue;
            };
            let of_the_crash = match error.as_db_error() {
                // Crash of another process, termination by an administrator, and a server in
                // recovery.
                Some(error) => matches!(error.code().code(), "57P01" | "57P02" | "57P03"),
                None => session.client().is_closed(),
            };
            assert!(of_the_crash, "{error:?}");
            break;
        }
    }
    written
}

/// Runs an action under load; afterwards writing and receiving must work again.
fn it_works_after(cluster: &Cluster, round: i64, what: &str, happens: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let written: i64 = std::thread::scope(|scope| {
        let over = &over;
        let base = 10 * (round + 1);
        let writers: Vec<_> =
            (0..2).map(|writer| scope.spawn(move || write(cluster, base + writer, over))).collect();
        happens();
        let mut session = cluster.superuser_of("postgres");
        wait_for_relay(&mut session);
        let before = super::stats(&mut session, "delivered");
        super::wait_until(what, || super::stats(&mut session, "delivered") != before);
        over.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect(what)).sum()
    });
    assert!(written > 0, "{what}");
    let mut session = cluster.superuser_of("postgres");
    let mut listener = Listener::of(cluster.superuser_of("postgres"), "t");
    session.run(&insert(round + 1, "t", "end"));
    // The last events of the load may arrive before it.
    assert_eq!(listener.receive_until("end").last().map(String::as_str), Some("end"), "{what}");
    assert_queue_empties(&mut session);
}

#[test]
fn a_crash_of_the_relay_or_of_a_writer_is_survived() {
    let cluster = relayed(&[TINY]);
    for round in 0..2 {
        it_works_after(&cluster, 2 * round, "SIGKILL of the relay", || {
            let relay = wait_for_relay(&mut cluster.superuser_of("postgres"));
            cluster.signal("KILL", &relay);
            super::wait_until("it is gone", || !exists(&relay));
        });
        it_works_after(&cluster, 2 * round + 1, "SIGKILL of a writer", || {
            let mut session = cluster.superuser_of("postgres");
            session.run(&format!("BEGIN; {}", insert(500 + round, "t", "never")));
            let process = pid(&mut session);
            cluster.signal("KILL", &process);
            super::wait_until("it is gone", || !exists(&process));
        });
    }
}

fn exists(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid).exists()
}

#[test]
fn every_kind_of_shutdown_under_load_ends_and_is_survived() {
    let cluster = relayed(&[TINY]);
    for (round, mode) in (0..).zip(["immediate", "fast", "immediate", "fast"]) {
        it_works_after(&cluster, round, mode, || {
            let mut session = cluster.superuser_of("postgres");
            let before = super::stats(&mut session, "delivered");
            super::wait_until("it works", || super::stats(&mut session, "delivered") != before);
            cluster.stop(mode);
            cluster.start_again();
        });
    }
    // It waits for its clients, which the relay serves until the end.
    let mut session = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| cluster.stop("smart"));
        super::wait_until("no one may connect", || cluster.connect("postgres").is_err());
        session.run(&insert(900, "t", "late"));
        assert_eq!(listener.receive_until("late"), ["late"]);
        drop((session, listener));
        stop.join().expect("it stops");
    });
    cluster.start_again();
    wait_for_relay(&mut cluster.superuser());
}
