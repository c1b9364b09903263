//! Without a relay everything is heard all the same.

use super::{Listener, TICKETS, fell_back, insert, relayed, stats};
use crate::pg_tests::support::Database;
use crate::pg_tests::support::cluster::Cluster;

#[test]
fn without_preloading_everything_is_heard_and_the_relay_says_that_it_does_not_run() {
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
    assert_eq!(listener.hears("end"), ["one", "end"]);
    let row = session.rows("SELECT * FROM civic.relay_stats()");
    let row: Vec<_> = row[0].iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
    assert_eq!(row, ["f", "NULL", "0", "0", "0", "{}", "0", "0", "0", "NULL"]);
}

#[test]
fn while_the_relays_database_is_absent_everything_is_heard() {
    let cluster = Cluster::start(&["shared_preload_libraries=pg_civic", "civic.database=absent"]);
    let mut session = cluster.superuser();
    session.run(TICKETS);
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&insert(1, "t", "end"));
    assert_eq!(listener.hears("end"), ["end"]);
    assert_eq!(stats(&mut session, "running"), "f");
    assert_eq!(fell_back(&mut session, "not_running"), 1);
    // It comes by itself once there is something to serve.
    session.run("CREATE DATABASE absent");
    super::wait_for_relay(&mut session);
}

#[test]
fn a_server_without_room_for_workers_hears_everything() {
    let settings = ["shared_preload_libraries=pg_civic", "max_worker_processes=0"];
    let cluster = Cluster::start(&settings);
    let mut session = cluster.superuser();
    session.run(TICKETS);
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&insert(1, "t", "end"));
    assert_eq!(listener.hears("end"), ["end"]);
    assert_eq!(fell_back(&mut session, "not_running"), 1);
}

#[test]
fn a_server_in_single_user_mode_takes_tickets() {
    let cluster = relayed(&[]);
    cluster.stop("fast");
    let said = cluster.single_user(&format!("{}\n", insert(1, "t", "alone")));
    assert!(!said.contains("ERROR") && !said.contains("panicked"), "{said}");
    cluster.start_again();
    assert_eq!(cluster.superuser().text("SELECT status FROM tickets"), "alone");
}
