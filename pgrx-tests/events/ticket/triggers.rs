//! The trigger function on every kind of trigger and table: it publishes events and never changes
//! the row.

use crate::pg_tests::support::{Database, Session};

const FUNCTION: &str = "EXECUTE FUNCTION civic.notify_ticket_update()";

/// A session that listens to the municipality `a`.
fn session() -> Session {
    let mut session = Database::plain().superuser();
    session.listens_to("a");
    session
}

/// Type, id and status of each received event.
fn published(session: &mut Session) -> Vec<String> {
    let describe = |event: serde_json::Value| {
        let text = |key: &str| event[key].as_str().unwrap_or("null").to_owned();
        format!("{} {} {}", text("type"), text("ticket_id"), text("status"))
    };
    session.events().into_iter().map(describe).collect()
}

#[test]
fn a_before_trigger_publishes_and_does_not_change_the_row() {
    let mut session = session();
    let columns = "id int PRIMARY KEY, gone int, tenant_id text, status text, note text,
                   twice int GENERATED ALWAYS AS (id * 2) STORED";
    let statements = |table: &str| {
        format!(
            "ALTER TABLE {table} DROP gone;
             INSERT INTO {table} (id, tenant_id, status, note)
                 VALUES (1, 'a', 'open', repeat('x', 100000)), (2, 'a', NULL, 'it''s'),
                        (3, 'a', 'open', NULL), (4, NULL, 'open', NULL), (5, 'a', 'done', '')
             ON CONFLICT DO NOTHING;
             UPDATE {table} SET status = 'closed', id = id + 10 WHERE id < 3;
             DELETE FROM {table} WHERE id = 5;
             ALTER TABLE {table} ADD later text DEFAULT 'missing';
             UPDATE {table} SET status = 'late' WHERE id = 3;"
        )
    };
    session.run(&format!(
        "CREATE TABLE ticket ({columns}); CREATE TABLE plain ({columns});
         CREATE TRIGGER tell BEFORE INSERT OR UPDATE OR DELETE ON ticket FOR EACH ROW {FUNCTION};"
    ));
    session.run(&statements("plain"));
    assert!(session.heard().is_empty());
    session.run(&statements("ticket"));
    let difference = "SELECT count(*) FROM (TABLE ticket UNION ALL TABLE plain) both_tables
                      GROUP BY both_tables.* HAVING count(*) <> 2";
    assert!(session.rows(difference).is_empty(), "the two tables hold the same rows");
    assert_eq!(session.text("SELECT count(*) FROM ticket"), "4");
    assert_eq!(
        published(&mut session),
        [
            "INSERT 1 open",
            "INSERT 2 null",
            "INSERT 3 open",
            "INSERT 5 done",
            "UPDATE 11 closed",
            "UPDATE 12 closed",
            "DELETE 5 done",
            "UPDATE 3 late"
        ]
    );
}

#[test]
fn a_before_trigger_publishes_the_row_as_earlier_triggers_left_it() {
    let mut session = session();
    session.run(&format!(
        "CREATE TABLE ticket (id int, tenant_id text, status text);
         CREATE FUNCTION set_status() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN NEW.status := 'set'; RETURN NEW; END$$;
         CREATE TRIGGER a_set BEFORE INSERT ON ticket FOR EACH ROW EXECUTE FUNCTION set_status();
         CREATE TRIGGER b_tell BEFORE INSERT ON ticket FOR EACH ROW {FUNCTION};
         INSERT INTO ticket VALUES (1, 'a', 'given')"
    ));
    assert_eq!(published(&mut session), ["INSERT 1 set"]);
    assert_eq!(session.text("SELECT status FROM ticket"), "set");
}

#[test]
fn an_instead_of_trigger_publishes_changes_of_a_view_and_counts_the_row() {
    let mut session = session();
    session.run(&format!(
        "CREATE TABLE ticket (id int, tenant_id text, status text);
         INSERT INTO ticket VALUES (1, 'a', 'open');
         CREATE VIEW tickets AS SELECT * FROM ticket;
         CREATE TRIGGER tell INSTEAD OF INSERT OR UPDATE OR DELETE ON tickets
             FOR EACH ROW {FUNCTION}"
    ));
    for (statement, expected) in [
        ("INSERT INTO tickets VALUES (2, 'a', 'new')", "INSERT 2 new"),
        ("UPDATE tickets SET status = 'closed'", "UPDATE 1 closed"),
        ("DELETE FROM tickets", "DELETE 1 open"),
    ] {
        assert_eq!(session.client().execute(statement, &[]).unwrap(), 1, "{statement}");
        assert_eq!(published(&mut session), [expected]);
    }
}

#[test]
fn a_statement_trigger_warns_and_the_statement_succeeds() {
    for (trigger, statement) in [
        ("AFTER INSERT ON ticket FOR EACH STATEMENT", "INSERT INTO ticket VALUES (1, 'a', 'x')"),
        ("BEFORE INSERT ON ticket FOR EACH STATEMENT", "INSERT INTO ticket VALUES (1, 'a', 'x')"),
        ("AFTER UPDATE ON ticket", "UPDATE ticket SET status = 'x'"),
        ("AFTER DELETE ON ticket", "DELETE FROM ticket"),
        ("AFTER TRUNCATE ON ticket", "TRUNCATE ticket"),
        ("BEFORE TRUNCATE ON ticket", "TRUNCATE ticket"),
    ] {
        let mut session = session();
        session.run(&format!(
            "CREATE TABLE ticket (id int, tenant_id text, status text);
             CREATE TRIGGER tell {trigger} {FUNCTION}"
        ));
        session.run(statement);
        let warnings = session.warnings();
        assert_eq!(warnings.len(), 1, "{trigger}");
        assert_eq!(
            warnings[0].message(),
            "change of table \"ticket\" was not notified: a statement trigger has no row to report",
            "{trigger}"
        );
        assert_eq!(warnings[0].hint(), Some("Create the trigger FOR EACH ROW."));
        assert!(session.heard().is_empty(), "{trigger}");
    }
}

#[test]
fn a_deferred_trigger_publishes_the_row_of_its_change_at_commit() {
    let mut session = session();
    session.run(&format!(
        "CREATE TABLE ticket (id int, tenant_id text, status text);
         CREATE CONSTRAINT TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON ticket
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {FUNCTION}"
    ));
    session.run(
        "BEGIN; INSERT INTO ticket VALUES (1, 'a', 'open'); UPDATE ticket SET status = 'closed';
         SAVEPOINT s; DELETE FROM ticket; ROLLBACK TO s; INSERT INTO ticket VALUES (2, NULL, '');
         COMMIT",
    );
    assert_eq!(published(&mut session), ["INSERT 1 open", "UPDATE 1 closed"]);
    assert_eq!(session.warnings().len(), 1, "the ticket without a municipality");
    assert_eq!(session.text("SELECT count(*) FROM ticket"), "2");
}

#[test]
fn two_triggers_on_one_table_publish_one_event() {
    let mut session = session();
    session.makes_ticket_table("id int, tenant_id text, status text");
    session.run(&format!(
        "CREATE TRIGGER tell_again AFTER INSERT ON ticket FOR EACH ROW {FUNCTION};
         INSERT INTO ticket VALUES (1, 'a', 'open')"
    ));
    assert_eq!(published(&mut session), ["INSERT 1 open"]);
}

#[test]
fn partitions_with_columns_in_another_order_are_read_by_name() {
    let mut session = session();
    session.run(&format!(
        "CREATE TABLE ticket (id int, tenant_id text, status text, category text)
             PARTITION BY LIST (status);
         CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON ticket FOR EACH ROW {FUNCTION};
         CREATE TABLE ticket_open PARTITION OF ticket FOR VALUES IN ('open');
         CREATE TABLE ticket_closed (gone int, category text, status text, gone_too text, id int,
                                     tenant_id text);
         ALTER TABLE ticket_closed DROP gone, DROP gone_too;
         ALTER TABLE ticket ATTACH PARTITION ticket_closed FOR VALUES IN ('closed');"
    ));
    session.run(
        "INSERT INTO ticket (id, tenant_id, status)
         VALUES (1, 'a', 'open'), (2, 'a', 'closed'), (3, 'a', 'open')",
    );
    assert_eq!(published(&mut session), ["INSERT 1 open", "INSERT 2 closed", "INSERT 3 open"]);
    session.run("UPDATE ticket SET category = 'water'");
    let mut updates = published(&mut session);
    updates.sort();
    assert_eq!(updates, ["UPDATE 1 open", "UPDATE 2 closed", "UPDATE 3 open"]);
    // PostgreSQL moves a row between partitions with a DELETE and an INSERT.
    session.run("UPDATE ticket SET status = 'closed' WHERE id = 1");
    assert_eq!(published(&mut session), ["DELETE 1 open", "INSERT 1 closed"]);
    session.run("INSERT INTO ticket_closed (id, tenant_id, status) VALUES (4, 'a', 'closed')");
    assert_eq!(published(&mut session), ["INSERT 4 closed"]);
}

#[test]
fn a_partition_attached_in_a_session_with_cached_plans_is_published() {
    let mut session = session();
    session.run(&format!(
        "CREATE TABLE ticket (id int, tenant_id text, status text) PARTITION BY RANGE (id);
         CREATE TRIGGER tell AFTER INSERT ON ticket FOR EACH ROW {FUNCTION};
         CREATE TABLE ticket_low PARTITION OF ticket FOR VALUES FROM (0) TO (10);
         PREPARE add (int) AS INSERT INTO ticket VALUES ($1, 'a', 'open');
         EXECUTE add (1)"
    ));
    session.run(
        "CREATE TABLE ticket_high (status text, tenant_id text, id int);
         ALTER TABLE ticket ATTACH PARTITION ticket_high FOR VALUES FROM (10) TO (20);
         EXECUTE add (11); EXECUTE add (2)",
    );
    assert_eq!(published(&mut session), ["INSERT 1 open", "INSERT 11 open", "INSERT 2 open"]);
}

#[test]
fn an_inheritance_child_with_its_own_trigger_is_published() {
    let mut session = session();
    session.makes_ticket_table("id int, tenant_id text, status text");
    session.run(&format!(
        "CREATE TABLE ticket_child (extra int, status text, tenant_id text, id int)
             INHERITS (ticket);
         CREATE TRIGGER tell AFTER UPDATE ON ticket_child FOR EACH ROW {FUNCTION};
         INSERT INTO ticket VALUES (1, 'a', 'open');
         INSERT INTO ticket_child (id, tenant_id, status) VALUES (2, 'a', 'open');
         UPDATE ticket SET status = 'closed'"
    ));
    assert_eq!(published(&mut session), ["INSERT 1 open", "UPDATE 1 closed", "UPDATE 2 closed"]);
}

#[test]
fn the_function_can_only_be_called_as_a_trigger() {
    let mut session = session();
    assert_eq!(session.sqlstate("SELECT civic.notify_ticket_update()"), "39P01");
    assert_eq!(session.text("SELECT 1"), "1", "the server is still running");
}

#[test]
fn a_table_of_sixteen_hundred_columns_is_published() {
    let mut session = session();
    let columns: Vec<_> = (1..=1597).map(|number| format!("column_{number} int")).collect();
    session.makes_ticket_table(&format!(
        "id int, {}, tenant_id text, status text",
        columns.join(", ")
    ));
    session.run("INSERT INTO ticket (id, tenant_id, status, column_9) VALUES (1, 'a', 'open', 3)");
    session.run("UPDATE ticket SET status = 'closed'");
    assert_eq!(published(&mut session), ["INSERT 1 open", "UPDATE 1 closed"]);
    assert_eq!(session.text("SELECT column_9 FROM ticket"), "3");
}
