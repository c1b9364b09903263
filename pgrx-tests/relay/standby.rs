//! A standby has no relay until it is promoted, and says so.

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

    for statement in [
        "SELECT civic.setup('tickets')",
        "SELECT civic.teardown()",
        "SELECT civic.protect('tickets')",
        "SELECT civic.publish('t', '{\"type\": \"x\"}')",
    ] {
        let error = session.error(statement);
        assert_eq!(error.code().code(), "25006", "{statement}");
        assert!(error.message().starts_with("this server is a standby"), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.starts_with("Call it on the primary")));
    }
    for component in ["relay", "media worker"] {
        let sql = format!(
            "SELECT ok || ' ' || detail FROM civic.check() WHERE component = '{component}'"
        );
        let found = session.text(&sql);
        assert!(found.starts_with("true this server is a standby"), "{component}: {found}");
    }

    primary.stop("immediate");
    session.run("SELECT pg_promote()");
    wait_for_relay(&mut session);
    let mut listener = Listener::of(standby.superuser(), "t");
    session.run(&insert(2, "t", "promoted"));
    assert_eq!(listener.receive_until("promoted"), ["promoted"]);
    assert_eq!(stats(&mut session, "delivered"), "1");
}
