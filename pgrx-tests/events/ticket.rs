//! Which writes of tickets publish events, and what the events contain.

mod failures;
mod triggers;
mod types;

use std::io::Write;

use serde_json::json;

use crate::pg_tests::support::{Database, Session, TENANT};

const CHANNEL: &str = "ticket_updates:00000000-0000-0000-0000-000000000001";

/// The application's own table, guarded. This session writes to it and listens to its municipality.
fn application() -> Session {
    let mut session = Database::guarded().superuser();
    session.listens_to(TENANT);
    session
}

/// Type and tracking number of each received event.
fn published(session: &mut Session) -> Vec<String> {
    let describe = |event: serde_json::Value| {
        let text = |key: &str| event[key].as_str().unwrap_or("null").to_owned();
        format!("{} {}", text("type"), text("tracking_number"))
    };
    session.events().into_iter().map(describe).collect()
}

fn insert(tracking_number: &str) -> String {
    format!(
        "INSERT INTO tickets (tenant_id, tracking_number) VALUES ('{TENANT}', '{tracking_number}');"
    )
}

#[test]
fn a_ticket_of_the_applications_table_without_ward_id_is_published() {
    let mut session = application();
    session.run(&format!(
        "INSERT INTO tickets (id, tenant_id, tracking_number, category, status, created_at)
         VALUES ('5E0F1C6A-0000-4000-8000-00000000000A', '{TENANT}', 'TKT-20260101-ABCDEF',
                 'water', 'open', '2026-01-01 00:00:00.000001+00')"
    ));
    let payload = r#"{"type":"INSERT","ticket_id":"5e0f1c6a-0000-4000-8000-00000000000a","tracking_number":"TKT-20260101-ABCDEF","status":"open","category":"water","municipality_id":"00000000-0000-0000-0000-000000000001","ward_id":null,"is_sensitive":false,"updated_at":1767225600.000001}"#;
    assert_eq!(session.heard(), [(CHANNEL.to_owned(), payload.to_owned())]);

    session.run("UPDATE tickets SET status = 'resolved', updated_at = '2026-01-02 00:00:00.5+00'");
    let payload = r#"{"type":"UPDATE","ticket_id":"5e0f1c6a-0000-4000-8000-00000000000a","tracking_number":"TKT-20260101-ABCDEF","status":"resolved","category":"water","municipality_id":"00000000-0000-0000-0000-000000000001","ward_id":null,"is_sensitive":false,"updated_at":1767312000.500000}"#;
    assert_eq!(session.heard(), [(CHANNEL.to_owned(), payload.to_owned())]);
    assert!(session.warnings().is_empty());
}

#[test]
fn a_ward_id_column_is_published_as_a_string() {
    let mut session = application();
    session.run("ALTER TABLE tickets ADD ward_id varchar(100)");
    session.run(&format!("INSERT INTO tickets (tenant_id, ward_id) VALUES ('{TENANT}', 'Ward 5')"));
    session.run("ALTER TABLE tickets ALTER ward_id TYPE integer USING 5");
    session.run(&format!("INSERT INTO tickets (tenant_id, ward_id) VALUES ('{TENANT}', 6)"));
    let wards: Vec<_> = session.events().iter().map(|event| event["ward_id"].clone()).collect();
    assert_eq!(wards, [json!("Ward 5"), json!("6")]);
}

#[test]
fn a_deleted_ticket_is_published_with_its_last_values() {
    let mut session = Database::plain().superuser();
    session.makes_ticket_table("id int, tenant_id text, status text, updated_at timestamptz");
    session.run("INSERT INTO ticket VALUES (7, 'a', 'open', '2026-01-01 00:00:00+00')");
    session.listens_to("a");
    session.run("DELETE FROM ticket");
    let payload = r#"{"type":"DELETE","ticket_id":"7","tracking_number":null,"status":"open","category":null,"municipality_id":"a","ward_id":null,"is_sensitive":null,"updated_at":1767225600.000000}"#;
    assert_eq!(session.heard(), [("ticket_updates:a".to_owned(), payload.to_owned())]);
}

#[test]
fn the_time_of_a_change_is_updated_at_then_created_at_then_the_transaction_start() {
    let mut session = Database::plain().superuser();
    session.makes_ticket_table("tenant_id text, updated_at timestamptz, created_at timestamptz");
    session.listens_to("a");
    let micros = "SELECT (extract(epoch FROM now()) * 1000000)::bigint";
    session.run("BEGIN");
    let transaction: i64 = session.text(micros).parse().unwrap();
    session.run(
        "INSERT INTO ticket VALUES ('a', '2026-01-01 00:00:01.25Z', '2026-01-01 00:00:02.5Z');
         INSERT INTO ticket VALUES ('a', NULL, '2026-01-01 00:00:02.5Z');
         INSERT INTO ticket VALUES ('a', 'infinity', '1969-12-31 23:59:59.999999Z');
         INSERT INTO ticket VALUES ('a', NULL, '-infinity');
         COMMIT",
    );
    let published: Vec<_> =
        session.events().iter().map(|event| event["updated_at"].to_string()).collect();
    let transaction = format!("{}.{:06}", transaction / 1_000_000, transaction % 1_000_000);
    assert_eq!(published, ["1767225601.250000", "1767225602.500000", "-0.000001", &transaction]);
}

#[test]
fn a_table_without_time_columns_gets_the_transaction_start() {
    let mut session = Database::plain().superuser();
    session.makes_ticket_table("tenant_id text");
    session.listens_to("a");
    session.run("BEGIN; INSERT INTO ticket VALUES ('a')");
    let transaction = session.text("SELECT extract(epoch FROM now())::numeric(20, 6)");
    session.run("COMMIT");
    assert_eq!(session.events()[0]["updated_at"].to_string(), transaction);
}

#[test]
fn a_rolled_back_change_is_never_published() {
    let mut session = application();
    session.run(&format!(
        "BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s; {} RELEASE s; COMMIT",
        insert("T-1"),
        insert("T-2"),
        insert("T-3")
    ));
    session.run(&format!("BEGIN; {} ROLLBACK", insert("T-4")));
    assert_eq!(published(&mut session), ["INSERT T-1", "INSERT T-3"]);
}

#[test]
fn a_failed_savepoint_discards_only_its_own_events() {
    let mut session = application();
    session.run(&format!("BEGIN; {} SAVEPOINT s", insert("T-1")));
    assert_eq!(session.sqlstate(&format!("{} {}", insert("T-2"), insert("T-1"))), "23505");
    session.run(&format!("ROLLBACK TO s; {} COMMIT", insert("T-3")));
    assert_eq!(published(&mut session), ["INSERT T-1", "INSERT T-3"]);
}

#[test]
fn every_row_of_a_copy_is_published_in_order() {
    let mut session = application();
    let mut rows =
        session.client().copy_in("COPY tickets (tenant_id, tracking_number) FROM STDIN").unwrap();
    let expected: Vec<_> = (0..500).map(|number| format!("INSERT T-{number}")).collect();
    for number in 0..500 {
        writeln!(rows, "{TENANT}\tT-{number}").unwrap();
    }
    assert_eq!(rows.finish().unwrap(), 500);
    assert_eq!(published(&mut session), expected);
}

#[test]
fn insert_from_a_query_publishes_each_row_and_an_update_of_no_row_publishes_nothing() {
    let mut session = application();
    session.run(&format!(
        "INSERT INTO tickets (tenant_id, tracking_number)
         SELECT '{TENANT}', 'T-' || i FROM generate_series(1, 3) i"
    ));
    assert_eq!(published(&mut session), ["INSERT T-1", "INSERT T-2", "INSERT T-3"]);
    session.run("UPDATE tickets SET status = 'open' WHERE tracking_number = 'T-9'");
    assert!(session.heard().is_empty());
}

#[test]
fn on_conflict_publishes_the_operation_that_was_performed() {
    let mut session = application();
    session.run(&insert("T-1"));
    session.heard();
    let insert = |action: &str| {
        format!(
            "INSERT INTO tickets (tenant_id, tracking_number) VALUES ('{TENANT}', 'T-1'),
             ('{TENANT}', 'T-2') ON CONFLICT (tracking_number) DO {action}"
        )
    };
    session.run(&insert("NOTHING"));
    assert_eq!(published(&mut session), ["INSERT T-2"]);
    session.run(&insert("UPDATE SET status = 'reopened'"));
    assert_eq!(published(&mut session), ["UPDATE T-1", "UPDATE T-2"]);
    session.run(&insert("UPDATE SET status = 'never' WHERE false"));
    assert!(session.heard().is_empty());
}

#[test]
fn merge_publishes_the_operation_performed_on_each_row() {
    let mut session = Database::plain().superuser();
    session.makes_ticket_table("tracking_number text, tenant_id text, status text");
    session.run("INSERT INTO ticket VALUES ('T-1', 'a', 'open'), ('T-2', 'a', 'open')");
    session.listens_to("a");
    session.run(
        "MERGE INTO ticket USING (VALUES ('T-1', 'closed'), ('T-2', 'gone'), ('T-3', 'new'))
             AS change (tracking_number, status)
             ON ticket.tracking_number = change.tracking_number
         WHEN MATCHED AND change.status = 'gone' THEN DELETE
         WHEN MATCHED THEN UPDATE SET status = change.status
         WHEN NOT MATCHED THEN INSERT VALUES (change.tracking_number, 'a', change.status)",
    );
    let mut published = published(&mut session);
    published.sort();
    assert_eq!(published, ["DELETE T-2", "INSERT T-3", "UPDATE T-1"]);
}

#[test]
fn identical_events_are_received_once_per_transaction() {
    let mut session = Database::plain().superuser();
    session.makes_ticket_table("id int, tenant_id text, updated_at timestamptz");
    session.run("INSERT INTO ticket VALUES (1, 'a', '2026-01-01Z')");
    session.listens_to("a");
    let update = "UPDATE ticket SET id = id;";
    session.run(&format!("BEGIN; {update} {update} COMMIT"));
    assert_eq!(session.heard().len(), 1, "as NOTIFY folds them");
    session.run(update);
    session.run(update);
    assert_eq!(session.heard().len(), 2);
}

#[test]
fn events_of_concurrent_sessions_are_all_received() {
    let database = Database::guarded();
    let mut listener = database.superuser();
    listener.listens_to(TENANT);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let mut session = database.superuser();
            scope.spawn(move || {
                for number in 0..25 {
                    session.run(&insert(&format!("T-{writer}-{number:02}")));
                }
            });
        }
    });
    let published = published(&mut listener);
    assert_eq!(published.len(), 100);
    for writer in 0..4 {
        let own = format!("INSERT T-{writer}-");
        let of_writer: Vec<_> = published.iter().filter(|event| event.starts_with(&own)).collect();
        assert_eq!(of_writer.len(), 25);
        assert!(of_writer.is_sorted(), "in the order of the writer's commits");
    }
}

#[test]
fn a_role_without_rights_on_the_extension_writes_tickets_that_are_published() {
    let database = Database::guarded();
    let mut listener = database.superuser();
    listener.listens_to(TENANT);
    let mut session = database.superuser();
    session.run(
        "REVOKE ALL ON SCHEMA civic FROM PUBLIC;
         REVOKE ALL ON ALL FUNCTIONS IN SCHEMA civic FROM PUBLIC;
         GRANT INSERT, UPDATE, SELECT ON tickets TO authenticated;
         SET ROLE authenticated",
    );
    assert_eq!(session.sqlstate("SELECT civic.ticket_channel('a')"), "42501");
    session.run(&insert("T-1"));
    session.run("UPDATE tickets SET status = 'open'");
    assert_eq!(published(&mut listener), ["INSERT T-1", "UPDATE T-1"]);
}

#[test]
fn a_prepared_transaction_stands_without_a_relay_and_its_lost_events_are_one_warning() {
    let mut session = application();
    session.run(&format!("BEGIN; {}; {}", insert("T-1"), insert("T-2")));
    let database = session.text("SELECT current_database()");
    session.run(&format!("PREPARE TRANSACTION '{database}'"));
    let warnings = session.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let message = warnings[0].message();
    assert!(
        message.starts_with("2 events were not notified: the transaction is prepared"),
        "{message}"
    );
    session.run(&format!("COMMIT PREPARED '{database}'"));
    assert_eq!(session.text("SELECT count(*) FROM tickets"), "2");
}

#[test]
fn applying_replicated_changes_publishes_nothing_unless_the_trigger_is_enabled_always() {
    let mut session = application();
    session.run("SET session_replication_role = replica");
    session.run(&insert("T-1"));
    assert!(session.heard().is_empty());
    session.run("ALTER TABLE tickets ENABLE ALWAYS TRIGGER ticket_update_notify");
    session.run(&insert("T-2"));
    assert_eq!(published(&mut session), ["INSERT T-2"]);
}

#[test]
fn a_table_changed_by_another_session_is_read_with_its_current_columns() {
    let database = Database::guarded();
    let (mut session, mut other) = (database.superuser(), database.superuser());
    session.listens_to(TENANT);
    session.run(&insert("TKT-1"));
    // The columns have other positions now, and one has another name.
    other.run("ALTER TABLE tickets RENAME tracking_number TO former");
    other.run("ALTER TABLE tickets ADD tracking_number text DEFAULT 'TKT-2', DROP category");
    session.run(&format!("INSERT INTO tickets (tenant_id, former) VALUES ('{TENANT}', 'TKT-0')"));
    assert_eq!(published(&mut session), ["INSERT TKT-1", "INSERT TKT-2"]);
}

#[test]
fn a_rolled_back_change_of_the_table_has_no_effect() {
    let mut session = application();
    session.run("BEGIN");
    session.run("SAVEPOINT before");
    session.run("ALTER TABLE tickets DROP tracking_number");
    session.run(&format!("INSERT INTO tickets (tenant_id) VALUES ('{TENANT}')"));
    session.run("ROLLBACK TO before");
    session.run(&insert("TKT-1"));
    session.run("COMMIT");
    assert_eq!(published(&mut session), ["INSERT TKT-1"]);
}
