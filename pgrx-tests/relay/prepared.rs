//! Prepared transactions cost no ticket: the relay publishes their events once they are committed.

use super::{Listener, TICKETS, insert, relayed, stats, wait_for_relay};
use crate::pg_tests::support::cluster::Cluster;
use crate::pg_tests::support::{Session, extent, wait_until};

const PREPARED: &str = "max_prepared_transactions=20";

fn waiting(session: &mut Session) -> String {
    session.text("SELECT count(*) FROM civic.prepared_events")
}

#[test]
fn events_of_a_prepared_transaction_are_received_when_it_is_committed_and_never_before() {
    let cluster = relayed(&[PREPARED]);
    let mut session = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&format!(
        "BEGIN; {}; {}; PREPARE TRANSACTION 'a'",
        insert(1, "t", "one"),
        insert(2, "t", "two")
    ));
    session.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'b'", insert(3, "t", "never")));
    session.run("ROLLBACK PREPARED 'b'");
    session.run(&insert(4, "t", "first"));
    assert_eq!(listener.receive_until("first"), ["first"]);
    session.run("COMMIT PREPARED 'a'");
    assert_eq!(listener.receive_until("two"), ["one", "two"]);
    session.run(&insert(5, "t", "end"));
    assert_eq!(listener.receive_until("end"), ["end"]);
    assert_eq!(waiting(&mut session), "0");
    assert!(session.warnings().is_empty());
    wait_until("the books add up", || {
        stats(&mut session, "queued") == "0" && stats(&mut session, "delivered") == "4"
    });
}

#[test]
fn a_ticket_that_is_prepared_and_changed_again_is_received_in_the_order_of_its_changes() {
    let cluster = relayed(&[PREPARED]);
    let mut session = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&insert(1, "t", "0"));
    let changes: u32 = extent(60, 600);
    for change in 1..=changes {
        let update = format!("UPDATE tickets SET status = '{change}' WHERE id = 1");
        if change % 3 == 0 {
            session.run(&update);
        } else {
            session.run(&format!("BEGIN; {update}; PREPARE TRANSACTION 'p'"));
            session.run("COMMIT PREPARED 'p'");
        }
    }
    let expected: Vec<_> = (0..=changes).map(|change| change.to_string()).collect();
    assert_eq!(listener.receive_until(&changes.to_string()), expected);
}

/// COMMIT PREPARED wakes nobody, so the relay has not published it when the next change is committed.
#[test]
fn a_change_that_falls_back_to_notify_waits_for_the_prepared_one_before_it() {
    let cluster = relayed(&[PREPARED]);
    let mut session = cluster.superuser();
    let mut direct = cluster.superuser();
    direct.run("SET civic.relay = off");
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&insert(1, "t", "0"));
    for change in 1..=20 {
        let update = |status: u32| format!("UPDATE tickets SET status = '{status}' WHERE id = 1");
        session.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'p'", update(2 * change - 1)));
        session.run("COMMIT PREPARED 'p'");
        direct.run(&update(2 * change));
    }
    let expected: Vec<_> = (0..=40).map(|change| change.to_string()).collect();
    assert_eq!(listener.receive_until("40"), expected);
}

#[test]
fn nothing_is_lost_over_a_crash_between_prepare_and_commit() {
    let cluster = relayed(&[PREPARED]);
    let mut session = cluster.superuser();
    for (name, status) in [("a", "kept"), ("b", "never"), ("c", "also kept")] {
        let id = name.as_bytes()[0].into();
        session.run(&format!("BEGIN; {}; PREPARE TRANSACTION '{name}'", insert(id, "t", status)));
    }
    cluster.stop("immediate");
    cluster.start_again();
    let mut session = cluster.superuser();
    wait_for_relay(&mut session);
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run("ROLLBACK PREPARED 'b'");
    session.run("COMMIT PREPARED 'a'");
    session.run("COMMIT PREPARED 'c'");
    assert_eq!(listener.receive_until("also kept"), ["kept", "also kept"]);
    assert_eq!(waiting(&mut session), "0");
}

#[test]
fn a_savepoint_that_is_rolled_back_before_prepare_is_not_published() {
    let cluster = relayed(&[PREPARED]);
    let mut session = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&format!(
        "BEGIN; SAVEPOINT s; {}; ROLLBACK TO s; {}; PREPARE TRANSACTION 'p'",
        insert(1, "t", "never"),
        insert(1, "t", "kept")
    ));
    session.run("COMMIT PREPARED 'p'");
    assert_eq!(listener.receive_until("kept"), ["kept"]);
}

#[test]
fn a_role_without_rights_on_the_table_of_events_prepares_tickets() {
    let cluster = relayed(&[PREPARED]);
    let mut session = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run("CREATE ROLE clerk; GRANT INSERT ON tickets TO clerk; SET ROLE clerk");
    assert_eq!(session.sqlstate("TABLE civic.prepared_events"), "42501");
    let insert = insert(1, "t", "by the clerk");
    session.run(&format!("BEGIN; {insert}; PREPARE TRANSACTION 'p'"));
    session.run("COMMIT PREPARED 'p'");
    assert_eq!(listener.receive_until("by the clerk"), ["by the clerk"]);
    assert!(session.warnings().is_empty());
}

#[test]
fn while_the_relay_is_off_the_write_stands_and_one_warning_says_what_is_lost() {
    let cluster = relayed(&[PREPARED]);
    let mut session = cluster.superuser();
    session.run(&format!(
        "SET civic.relay = off; BEGIN; {}; PREPARE TRANSACTION 'p'",
        insert(1, "t", "quiet")
    ));
    session.run("COMMIT PREPARED 'p'");
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message().contains("the transaction is prepared"), "{warnings:?}");
    assert_eq!(session.text("SELECT status FROM tickets WHERE id = 1"), "quiet");
    assert_eq!(waiting(&mut session), "0");
}

#[test]
fn a_full_table_lock_holds_events_up_and_loses_none() {
    let cluster = relayed(&[PREPARED]);
    let mut session = cluster.superuser();
    let mut holder = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    session.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'p'", insert(1, "t", "one")));
    session.run("COMMIT PREPARED 'p'");
    assert_eq!(listener.receive_until("one"), ["one"]);
    session.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'p'", insert(2, "t", "two")));
    // The prepared transaction has written to the table: a lock against writers has to wait for it.
    session.run("COMMIT PREPARED 'p'");
    holder.run("BEGIN; LOCK TABLE civic.prepared_events IN SHARE MODE");
    session.run(&insert(3, "t", "three"));
    holder.run("COMMIT");
    assert_eq!(listener.receive_until("three"), ["two", "three"]);
}

/// The relay has a superuser's rights.
#[test]
fn attack_a_table_of_this_name_of_another_role_is_not_touched() {
    let cluster = Cluster::start(&["shared_preload_libraries=pg_civic", PREPARED]);
    let mut session = cluster.superuser();
    session.run(
        "CREATE ROLE attacker; GRANT CREATE ON DATABASE postgres TO attacker; SET ROLE attacker;
         CREATE SCHEMA civic;
         CREATE TABLE civic.prepared_events (id bigint, events bytea);
         CREATE FUNCTION civic.spring() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN ALTER ROLE attacker SUPERUSER; RETURN OLD; END $$;
         CREATE TRIGGER spring BEFORE DELETE ON civic.prepared_events
             FOR EACH ROW EXECUTE FUNCTION civic.spring();
         INSERT INTO civic.prepared_events VALUES (1, '');
         RESET ROLE",
    );
    cluster.stop("fast");
    cluster.start_again();
    let mut session = cluster.superuser();
    let relay = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_civic relay'";
    wait_until("the relay runs", || session.text(relay) == "1");
    // It has looked once it has published something.
    session.run("ALTER SCHEMA civic RENAME TO trap");
    session.run(TICKETS);
    let mut listener = Listener::of(cluster.superuser(), "t");
    wait_for_relay(&mut session);
    session.run(&insert(1, "t", "one"));
    assert_eq!(listener.receive_until("one"), ["one"]);
    assert_eq!(session.text("SELECT rolsuper FROM pg_roles WHERE rolname = 'attacker'"), "f");
    assert_eq!(session.text("SELECT count(*) FROM trap.prepared_events"), "1");
}

#[test]
fn exactly_the_committed_changes_of_many_writers_are_received_each_tickets_in_order() {
    const WRITERS: u64 = 4;
    let cluster = relayed(&[PREPARED, super::TINY]);
    let changes: u32 = extent(150, 3000);
    let mut listener = Listener::of(cluster.superuser(), "t");
    let last: Vec<u32> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let mut session = cluster.superuser();
                scope.spawn(move || {
                    session.run(&insert(writer as i64, "t", &format!("{writer}:0")));
                    let (mut random, mut committed) = (0x9e37_79b9 * (writer + 1), 0);
                    for _ in 0..changes {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let update = format!(
                            "BEGIN; UPDATE tickets SET status = '{writer}:{}' WHERE id = {writer}",
                            committed + 1
                        );
                        let (end, then) = match random % 4 {
                            0 => ("COMMIT".to_owned(), None),
                            1 => ("ROLLBACK".to_owned(), None),
                            2 => (format!("PREPARE TRANSACTION '{writer}'"), Some("ROLLBACK")),
                            _ => (format!("PREPARE TRANSACTION '{writer}'"), Some("COMMIT")),
                        };
                        session.run(&format!("{update}; {end}"));
                        if let Some(then) = then {
                            session.run(&format!("{then} PREPARED '{writer}'"));
                        }
                        committed += u32::from(end == "COMMIT" || then == Some("COMMIT"));
                    }
                    assert!(session.warnings().is_empty());
                    committed
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
    });
    let mut received = vec![];
    for (writer, last) in last.iter().enumerate() {
        if !received.contains(&format!("{writer}:{last}")) {
            received.extend(listener.receive_until(&format!("{writer}:{last}")));
        }
    }
    // What should not come has had the time that this one takes.
    cluster.superuser().run(&insert(100, "t", "end"));
    received.extend(listener.receive_until("end"));
    for (writer, last) in last.iter().enumerate() {
        let own = received.iter().filter(|status| status.starts_with(&format!("{writer}:")));
        let expected: Vec<_> = (0..=*last).map(|change| format!("{writer}:{change}")).collect();
        assert_eq!(own.cloned().collect::<Vec<_>>(), expected, "ticket {writer}");
    }
}
