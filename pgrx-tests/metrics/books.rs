//! Counters add up with what has happened.

use super::{served, value};
use crate::pg_tests::support::{OTHER_TENANT, Session, TENANT, claims, wait_until};

fn insert(tenant: &str, number: usize) -> String {
    format!(
        "INSERT INTO tickets (tenant_id, tracking_number, category, status)
         VALUES ('{tenant}', 'W-{number}', 'water', 'open')"
    )
}

fn events(session: &mut Session, transport: &str, outcome: &str) -> f64 {
    let labels = format!("{{\"transport\": \"{transport}\", \"outcome\": \"{outcome}\"}}");
    value(session, "pg_civic_events_total", &labels)
}

/// All five counters of events, in the order relay, notify, lost, Realtime, lost.
fn all_events(session: &mut Session) -> [f64; 5] {
    let counters = [
        ("relay", "sent"),
        ("notify", "sent"),
        ("notify", "lost"),
        ("realtime", "sent"),
        ("realtime", "lost"),
    ];
    counters.map(|(transport, outcome)| events(session, transport, outcome))
}

#[test]
fn events_are_counted_by_transport_when_their_transaction_commits() {
    let cluster = served(&["max_prepared_transactions=2"]);
    let mut session = cluster.superuser();
    assert_eq!(all_events(&mut session), [0.0; 5]);
    for number in 0..3 {
        session.run(&insert(TENANT, number));
    }
    session.run(&format!("BEGIN; {}; {}; ROLLBACK", insert(TENANT, 10), insert(TENANT, 11)));
    session.run(&format!(
        "BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO a; COMMIT",
        insert(TENANT, 12),
        insert(TENANT, 13)
    ));
    assert_eq!(all_events(&mut session), [4.0, 0.0, 0.0, 4.0, 0.0]);
    wait_until("they are delivered", || {
        value(&mut session, "pg_civic_relay_delivered_events_total", "{}") == 4.0
    });
    assert_eq!(value(&mut session, "pg_civic_relay_queued_events", "{}"), 0.0);
    assert!(value(&mut session, "pg_civic_relay_batches_total", "{}") >= 1.0);
    assert!(value(&mut session, "pg_civic_relay_delivered_bytes_total", "{}") > 4.0 * 100.0);
    assert!(value(&mut session, "pg_civic_relay_queue_peak_bytes", "{}") > 0.0);

    session.run("SET civic.relay = off");
    session.run(&format!("BEGIN; {}; ROLLBACK", insert(TENANT, 20)));
    session.run(&insert(TENANT, 21));
    session.run("RESET civic.relay");
    assert_eq!(all_events(&mut session), [4.0, 1.0, 0.0, 5.0, 0.0]);
    assert_eq!(value(&mut session, "pg_civic_relay_fallbacks_total", "{\"reason\": \"off\"}"), 1.0);

    session.run("SET civic.event_transport = realtime");
    session.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'later'", insert(TENANT, 30)));
    session.run("COMMIT PREPARED 'later'");
    assert_eq!(all_events(&mut session), [4.0, 1.0, 0.0, 6.0, 0.0]);
    let stored = "SELECT count(*) FROM realtime.messages";
    assert_eq!(session.text(stored), "6", "the books of Realtime");
}

#[test]
fn changes_that_are_counted_are_on_the_books_when_their_transaction_commits() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    let bulk = |session: &mut Session| {
        ["pg_civic_bulk_events_total", "pg_civic_bulk_changes_total"]
            .map(|name| value(session, name, "{}"))
    };
    let insert = |count: usize| {
        format!(
            "INSERT INTO tickets (tenant_id) SELECT '{TENANT}' FROM generate_series(1, {count})"
        )
    };
    session.run("SET civic.bulk_after = 10");
    session.run(&insert(10));
    session.run(&format!("BEGIN; {}; ROLLBACK", insert(30)));
    assert_eq!(bulk(&mut session), [0.0, 0.0]);
    session.run(&format!(
        "BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO a; COMMIT",
        insert(30),
        insert(5)
    ));
    assert_eq!(bulk(&mut session), [1.0, 20.0]);
    assert_eq!(all_events(&mut session), [21.0, 0.0, 0.0, 21.0, 0.0]);
}

#[test]
fn the_check_reports_the_busiest_minute_of_realtime() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    session.run(
        "CREATE SCHEMA _realtime;
         CREATE TABLE _realtime.tenants (max_events_per_second int, private_only boolean);
         INSERT INTO _realtime.tenants VALUES (1000, true)",
    );
    let mut limit = || {
        let sql = "SELECT ok || ' ' || detail FROM civic.check() WHERE component = 'rate limit of Realtime'";
        session.text(sql)
    };
    assert!(limit().starts_with("true 1000 a second") && !limit().contains("busiest"));
    let mut writer = cluster.superuser();
    writer.run(&format!("BEGIN; {}; ROLLBACK", insert(TENANT, 0)));
    for number in 0..3 {
        writer.run(&insert(TENANT, number));
    }
    let detail = limit();
    // The three may be in two minutes.
    assert!(detail.starts_with("true") && detail.contains("In the busiest minute"), "{detail}");
    cluster.superuser().run("UPDATE _realtime.tenants SET max_events_per_second = 0");
    assert!(limit().starts_with("false 0 a second"), "{}", limit());
    assert!(limit().contains("over the limit before a single dashboard"));
}

#[test]
fn events_that_reach_nobody_are_counted_by_reason() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    session.makes_ticket_table("id int, tenant_id text, status text");
    session.run("INSERT INTO ticket VALUES (1, NULL, 'open'), (2, NULL, 'open')");
    session.run("BEGIN; INSERT INTO ticket VALUES (3, NULL, 'open'); ROLLBACK");
    assert_eq!(events(&mut session, "notify", "lost"), 2.0);

    session.run("ALTER TABLE realtime.messages ADD COLUMN shard text NOT NULL");
    session.run(&insert(TENANT, 1));
    session.run("DROP FUNCTION realtime.send");
    session.run(&insert(TENANT, 2));
    session.run(&format!("BEGIN; {}; ROLLBACK", insert(TENANT, 3)));
    assert_eq!(events(&mut session, "realtime", "lost"), 2.0);
    let lost = "SELECT labels ->> 'reason', value FROM civic.metrics
                WHERE name = 'pg_civic_realtime_lost_events_total' AND value > 0 ORDER BY 1";
    let text =
        |row: &Vec<Option<String>>| row.iter().flatten().cloned().collect::<Vec<_>>().concat();
    let lost: Vec<_> = session.rows(lost).iter().map(text).collect();
    assert_eq!(lost, ["no_function1", "not_stored1"]);
}

#[test]
fn a_refused_upload_is_counted_by_its_bucket_and_a_read_is_not() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    let refused = |bucket: &str| {
        let labels = format!("{{\"bucket\": \"{bucket}\"}}");
        let mut session = cluster.superuser();
        value(&mut session, "pg_civic_firewall_refused_uploads_total", &labels)
    };
    let upload = |bucket: &str, tenant: &str| {
        format!(
            "INSERT INTO storage.objects (bucket_id, name) VALUES ('{bucket}', '{tenant}/id/a.jpg')"
        )
    };
    session.run(&upload("evidence", OTHER_TENANT));
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    session.run(&upload("evidence", TENANT));
    assert_eq!(session.text("SELECT count(*) FROM storage.objects"), "1");
    assert_eq!(refused("evidence"), 0.0, "reads and uploads that are allowed");

    assert_eq!(session.sqlstate(&upload("evidence", OTHER_TENANT)), "42501");
    assert_eq!(session.sqlstate(&upload("gbv-evidence", TENANT)), "42501");
    let request = "SELECT civic.request_upload('a.jpg', 'image/jpeg', 10, 'gbv-evidence')";
    assert_eq!(session.sqlstate(request), "42501");
    assert_eq!(
        [refused("evidence"), refused("gbv-evidence"), refused("documents")],
        [1.0, 2.0, 0.0]
    );

    session.reset_role();
    session.run("CREATE POLICY careless ON storage.objects USING (true) WITH CHECK (true)");
    session.acts_as("authenticated", &claims(TENANT, "citizen"));
    assert_eq!(session.sqlstate(&upload("documents", OTHER_TENANT)), "42501");
    assert!(refused("documents") >= 1.0, "what only the firewall refuses");
    // Another bucket is none of ours, and a forged one has no counter.
    session.run("SELECT civic.can_upload_object('avatars', 'x'), civic.can_upload_object(repeat('x', 1000000), 'x')");
    let buckets =
        "SELECT count(*) FROM civic.metrics WHERE name = 'pg_civic_firewall_refused_uploads_total'";
    session.reset_role();
    assert_eq!(session.text(buckets), "3");
}

#[test]
fn counters_survive_their_sessions_and_workers_and_end_with_the_server() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    cluster.superuser().run(&insert(TENANT, 1));
    assert_eq!(events(&mut session, "relay", "sent"), 1.0);
    let relay = session.text("SELECT pid FROM civic.relay_stats()");
    session.run(&format!("SELECT pg_terminate_backend({relay})"));
    wait_until("another relay runs", || {
        session.text("SELECT coalesce(pid, 0) FROM civic.relay_stats()") != relay
            && session.text("SELECT running FROM civic.relay_stats()") == "t"
    });
    assert_eq!(events(&mut session, "relay", "sent"), 1.0);
    cluster.stop("fast");
    cluster.start_again();
    assert_eq!(events(&mut cluster.superuser_of("postgres"), "relay", "sent"), 0.0);
}

#[test]
fn a_whole_check_by_the_owner_is_recorded_and_one_by_another_role_is_not() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    let recorded = "SELECT name, value FROM civic.metrics WHERE name LIKE 'pg_civic_checks_%'";
    session.run("CREATE ROLE monitor IN ROLE pg_monitor");
    session.run("SET ROLE monitor");
    session.run("SELECT count(*) FROM civic.check()");
    assert!(session.rows(recorded).is_empty(), "row security hides the buckets from that role");
    session.reset_role();
    session.run("DROP POLICY \"civic firewall\" ON storage.objects");
    let failing = "SELECT count(*) FROM civic.check() WHERE NOT ok";
    let failing: f64 = session.text(failing).parse().expect("a number");
    assert!(failing >= 1.0);
    assert_eq!(value(&mut session, "pg_civic_checks_failing", "{}"), failing);
    session.run("SET ROLE monitor");
    session.run("SELECT count(*) FROM civic.check()");
    session.reset_role();
    assert_eq!(value(&mut session, "pg_civic_checks_failing", "{}"), failing);
    wait_until("it grows old", || value(&mut session, "pg_civic_checks_age_seconds", "{}") > 0.05);
    session.run("CREATE DATABASE other TEMPLATE template0");
    let mut other = cluster.superuser_of("other");
    other.run("CREATE EXTENSION pg_civic");
    other.run("SELECT count(*) FROM civic.check()");
    assert_eq!(value(&mut session, "pg_civic_checks_failing", "{}"), failing, "another database");
}
