//! Tickets are written even if the server's notification queue is full.

#![cfg(any(feature = "pg17", feature = "pg18"))]

use crate::pg_tests::support::Session;
use crate::pg_tests::support::cluster::Cluster;

/// A cluster with the smallest possible queue, half a megabyte, and the table `ticket`.
fn cluster() -> Cluster {
    let cluster = Cluster::start(&["max_notify_queue_pages=64"]);
    let mut session = cluster.superuser();
    session.run("CREATE EXTENSION pg_civic");
    session.makes_ticket_table("id int, tenant_id text, status text");
    cluster
}

/// A session that listens on `a` and stays in a transaction, so the server keeps every event for
/// it.
fn stuck_listener(cluster: &Cluster) -> Session {
    let mut listener = cluster.superuser();
    listener.run("LISTEN \"ticket_updates:a\"");
    listener.run("BEGIN");
    listener
}

/// WARNINGs of the extension. The server also warns about a queue that is half full.
fn warnings(session: &mut Session) -> Vec<String> {
    let messages = session.warnings().into_iter().map(|warning| warning.message().to_owned());
    messages.filter(|message| !message.starts_with("NOTIFY queue is ")).collect()
}

fn insert(count: usize, size: usize) -> String {
    format!(
        "INSERT INTO ticket SELECT i, 'a', repeat('x', {size}) FROM generate_series(1, {count}) i"
    )
}

/// The listener continues, and later events reach it again.
#[track_caller]
fn assert_events_flow_again(cluster: &Cluster, listener: &mut Session) {
    listener.run("COMMIT");
    listener.heard();
    let mut session = cluster.superuser();
    session.run(&insert(3, 10));
    assert!(warnings(&mut session).is_empty());
    assert_eq!(listener.heard().len(), 3);
}

#[test]
fn tickets_are_written_while_a_stuck_listener_fills_the_queue() {
    let cluster = cluster();
    let mut listener = stuck_listener(&cluster);
    let mut session = cluster.superuser();
    let mut published = 0;
    for batch in 1..=100 {
        session.run(&insert(10, 1000));
        let warnings = warnings(&mut session);
        assert!(warnings.len() <= 1, "one per transaction");
        if warnings.is_empty() {
            published += 10;
        } else {
            assert_eq!(
                warnings[0],
                "change of table \"ticket\" was not notified: \
                 the server's notification queue is nearly full"
            );
        }
        assert_eq!(session.text("SELECT count(*) FROM ticket"), (batch * 10).to_string());
    }
    assert!(published < 1000, "the queue did fill");
    listener.run("COMMIT");
    let received = listener.heard().len();
    assert!(
        (published..published + 10).contains(&received),
        "received {received}, of {published} without a warning"
    );
    assert_events_flow_again(&cluster, &mut listener);
}

#[test]
fn a_transaction_larger_than_the_queue_commits() {
    let cluster = cluster();
    let mut listener = stuck_listener(&cluster);
    let mut session = cluster.superuser();
    session.run("SET civic.bulk_after = 0");
    // Only one or two events of the larger sizes fit on a page of the queue; the rest of the page
    // is lost.
    for size in [10, 1000, 2600, 4000, 7000] {
        session.run(&insert(5_000_000 / (size + 250), size));
        assert_eq!(warnings(&mut session).len(), 1, "{size}");
        listener.run("COMMIT");
        assert!(!listener.heard().is_empty(), "{size}: what fitted is received");
        listener.run("BEGIN");
    }
}

#[test]
fn tickets_are_written_while_the_application_itself_fills_the_queue() {
    let cluster = cluster();
    let mut listener = stuck_listener(&cluster);
    let mut session = cluster.superuser();
    session.run(&insert(1, 10));
    let notify = "SELECT pg_notify('own', i || repeat('x', 7000)) FROM generate_series(1, 4) i";
    while session.client().batch_execute(notify).is_ok() {}
    session.run(&insert(200, 1000));
    assert_eq!(session.text("SELECT count(*) FROM ticket"), "201");
    let error = session.error("SELECT civic.publish('a', '{\"type\": \"x\"}')");
    assert_eq!(error.code().code(), "54000");
    assert_eq!(error.message(), "the server's notification queue is nearly full");
    assert_events_flow_again(&cluster, &mut listener);
}

#[test]
fn writers_that_together_fill_the_queue_all_commit() {
    let cluster = cluster();
    let mut listener = stuck_listener(&cluster);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let mut session = cluster.superuser();
            scope.spawn(move || {
                for _ in 0..100 {
                    session.run(&insert(2, 1000));
                }
            });
        }
    });
    let mut session = cluster.superuser();
    assert_eq!(session.text("SELECT count(*) FROM ticket"), "1600");
    assert_events_flow_again(&cluster, &mut listener);
}
