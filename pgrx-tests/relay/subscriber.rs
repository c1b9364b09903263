//! A subscriber of logical replication publishes what it receives if its trigger fires for that.

use super::*;

const CHECK: &str = "SELECT ok FROM civic.check()
    WHERE component = 'trigger ticket_update_notify on public.tickets'";
const WRITTEN: &str = "SELECT count(*) FROM tickets WHERE id = 2";

#[test]
fn a_subscriber_publishes_what_arrives_if_its_trigger_is_enabled_for_replicas() {
    let publisher = relayed(&["wal_level=logical"]);
    let mut writer = publisher.superuser();
    writer.run("CREATE PUBLICATION p FOR TABLE tickets");
    writer.run(&insert(1, "t", "copied"));
    let subscriber = relayed(&[]);
    let mut session = subscriber.superuser();
    session.run("DROP TRIGGER received ON tickets; SELECT civic.setup('public.tickets')");
    let mut listener = Listener::of(subscriber.superuser(), "t");
    let (directory, user) = publisher.address();
    session.run(&format!(
        "CREATE SUBSCRIPTION s CONNECTION 'host={} user={user} dbname=postgres' PUBLICATION p",
        directory.display()
    ));
    let copied = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'";
    wait_until("the tickets are copied", || session.text(copied) == "1");

    writer.run(&insert(2, "t", "silent"));
    wait_until("the ticket arrives", || session.text(WRITTEN) == "1");
    session.run("ALTER TABLE tickets ENABLE REPLICA TRIGGER ticket_update_notify");
    assert_eq!(session.text(CHECK), "t");
    writer.run("UPDATE tickets SET status = 'heard' WHERE id = 2");
    // Without the trigger's consent neither the copy nor the ticket before is published.
    assert_eq!(listener.receive_until("heard"), ["heard"]);

    session.run("DROP SUBSCRIPTION s");
    assert_eq!(session.text(CHECK), "f", "nothing arrives any more");
}
