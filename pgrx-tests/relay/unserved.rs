//! Without a relay all events are still received.

use super::{Listener, TICKETS, fell_back, insert, relayed, stats};
use crate::pg_tests::support::Database;
use crate::pg_tests::support::cluster::Cluster;

#[test]
fn without_preloading_all_events_are_received_and_the_relay_reports_not_running() {
    let database = Database::plain();
    let mut session = database.superuser();
    session.run(TICKETS);
    let mut listener = Listener::of(database.superuser(), "t");
    session.run(&format!(
        "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; COMMIT",
        insert(1, "t", "one"),
        insert(2, "t", "never")
    ));
    session.run(&insert(3, "t", "end"));
    assert_eq!(listener.receive_until("end"), ["one", "end"]);
    let row = session.rows("SELECT * FROM civic.relay_stats()");
    let row: Vec<_> = row[0].iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
    assert_eq!(row, ["f", "NULL", "0", "0", "0", "{}", "0", "0", "0", "NULL"]);
}

#[test]
fn while_the_relays_database_is_missing_all_events_are_received() {
    let cluster = Cluster::start(&["shared_preload_libraries=pg_civic", "civic.database=absent"]);
    let mut session = cluster.superuser();
    session.run(TICKETS);
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&insert(1, "t", "end"));
    assert_eq!(listener.receive_until("end"), ["end"]);
    assert_eq!(stats(&mut session, "running"), "f");
    assert_eq!(fell_back(&mut session, "not_running"), 1);
    // The relay starts by itself once its database exists.
    session.run("CREATE DATABASE absent");
    super::wait_for_relay(&mut session);
}

#[test]
fn on_a_server_without_room_for_workers_all_events_are_received() {
    let settings = ["shared_preload_libraries=pg_civic", "max_worker_processes=0"];
    let cluster = Cluster::start(&settings);
    let mut session = cluster.superuser();
    session.run(TICKETS);
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&insert(1, "t", "end"));
    assert_eq!(listener.receive_until("end"), ["end"]);
    assert_eq!(fell_back(&mut session, "not_running"), 1);
}

#[test]
fn a_server_in_single_user_mode_accepts_tickets() {
    let cluster = relayed(&[]);
    cluster.stop("fast");
    let said = cluster.single_user(&format!("{}\n", insert(1, "t", "alone")));
    assert!(!said.contains("ERROR") && !said.contains("panicked"), "{said}");
    cluster.start_again();
    assert_eq!(cluster.superuser().text("SELECT status FROM tickets"), "alone");
}
