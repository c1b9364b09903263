//! The server's own notification queue is full, and the relay waits for room in it.

#![cfg(any(feature = "pg17", feature = "pg18"))]

use super::*;

#[test]
fn the_relay_keeps_events_while_a_stuck_listener_fills_the_servers_queue() {
    // The smallest possible queue of the server, half a megabyte.
    let cluster = relayed(&["max_notify_queue_pages=64"]);
    let mut listener = Listener::of(cluster.superuser(), "t");
    listener.session.run("BEGIN");
    let mut writer = cluster.superuser();
    let mut committed = vec![];
    // More than the server's queue holds, less than the relay's.
    for id in 0..1000 {
        let status = format!("{id} {}", "x".repeat(1000));
        writer.run(&insert(id, "t", &status));
        committed.push(status);
    }
    assert!(writer.warnings().iter().all(|warning| warning.message().starts_with("NOTIFY queue")));
    assert!(stats(&mut writer, "queue_bytes_used") != "0", "the relay waits");
    assert_eq!(fell_back(&mut writer, "queue_full"), 0);
    listener.session.run("COMMIT");
    writer.run(&insert(1000, "t", "end"));
    committed.push("end".to_owned());
    assert!(listener.receive_until("end") == committed, "each was received, in order");
    assert_queue_empties(&mut writer);
}
