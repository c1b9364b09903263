//! A standby has no relay until it is promoted.

use super::*;

#[test]
fn a_standby_serves_reads_without_a_relay_and_starts_one_after_promotion() {
    let primary = relayed(&[]);
    let standby = primary.standby();
    let mut session = standby.superuser_of("postgres");
    assert_eq!(session.text("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(stats(&mut session, "running"), "f");
    let mut writer = primary.superuser_of("postgres");
    wait_for_relay(&mut writer);
    writer.run(&insert(1, "t", "replicated"));
    wait_until("the ticket is replicated", || session.text("SELECT count(*) FROM tickets") == "1");
    assert_eq!(stats(&mut session, "delivered"), "0");

    primary.stop("immediate");
    session.run("SELECT pg_promote()");
    wait_for_relay(&mut session);
    let mut listener = Listener::of(standby.superuser(), "t");
    session.run(&insert(2, "t", "promoted"));
    assert_eq!(listener.receive_until("promoted"), ["promoted"]);
    assert_eq!(stats(&mut session, "delivered"), "1");
}
