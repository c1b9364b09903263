//! Room in the queue never leaks, however a transaction ends.

use super::{Listener, TINY, assert_queue_empties, insert, pid, relayed, stats};

#[test]
fn an_error_in_the_commit_releases_the_room() {
    let cluster = relayed(&[TINY]);
    let (mut first, mut second) = (cluster.superuser(), cluster.superuser());
    let mut listener = Listener::of(cluster.superuser(), "t");
    first.run(
        "CREATE TABLE later (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$refused$$; END';
         CREATE TABLE refused (id int);
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON refused DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    for _ in 0..30 {
        let never = insert(1, "t", "never");
        let unique = format!("BEGIN; {never}; INSERT INTO later VALUES (1), (1); COMMIT");
        assert_eq!(first.sqlstate(&unique), "23505");
        let trigger = format!("BEGIN; {never}; INSERT INTO refused VALUES (1); COMMIT");
        assert_eq!(first.sqlstate(&trigger), "P0001");
    }
    // This one fails after the reservation: each transaction reads what the other writes, and the
    // second fails at its commit.
    // learns at its commit that it cannot be.
    for round in 0..30 {
        let read = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM later";
        first.run(read);
        second.run(read);
        first.run("INSERT INTO later VALUES (1)");
        second.run(&format!("INSERT INTO later VALUES (2); {}", insert(1, "t", "never")));
        first.run("COMMIT");
        assert_eq!(second.sqlstate("COMMIT"), "40001", "round {round}");
        first.run("DELETE FROM later");
    }
    assert_eq!(stats(&mut first, "fell_back ->> 'queue_full'"), "0");
    first.run(&insert(1, "t", "end"));
    assert_eq!(listener.receive_until("end"), ["end"]);
    assert!(stats(&mut first, "queue_bytes_highest") != "0", "room was taken");
    assert_queue_empties(&mut first);
}

#[test]
fn a_writer_terminated_within_its_transaction_leaves_nothing() {
    let cluster = relayed(&[TINY]);
    let mut admin = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    for _ in 0..20 {
        let mut writer = cluster.superuser();
        let process = pid(&mut writer);
        writer.run(&format!("BEGIN; {}", insert(1, "t", "never")));
        admin.run(&format!("SELECT pg_terminate_backend({process})"));
        super::wait_until("it is gone", || writer.client().batch_execute("COMMIT").is_err());
    }
    admin.run(&insert(1, "t", "end"));
    assert_eq!(listener.receive_until("end"), ["end"]);
    assert_queue_empties(&mut admin);
}

#[test]
fn dropping_the_extension_under_load_leaves_nothing() {
    let cluster = relayed(&[TINY]);
    let mut admin = cluster.superuser();
    let mut listener = Listener::of(cluster.superuser(), "t");
    for round in 0..3 {
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let mut session = cluster.superuser();
                scope.spawn(move || {
                    for number in 0..100 {
                        session.run(&insert(round * 1000 + writer * 100 + number, "t", "some"));
                    }
                });
            }
            admin.run("DROP EXTENSION pg_civic CASCADE");
        });
        admin.run(
            "CREATE EXTENSION pg_civic; CREATE TRIGGER received AFTER INSERT ON tickets
                FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()",
        );
        let end = format!("end {round}");
        admin.run(&insert(round * 1000 + 999, "t", &end));
        assert_eq!(listener.receive_until(&end).last(), Some(&end));
        assert_queue_empties(&mut admin);
    }
}
