//! `civic.realtime_rate`: at most so many messages of a municipality in a second. What exceeds it is reported in the
//! next second, and nothing is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use civic_fake_services::RateLimit;

use super::insert;
use crate::pg_tests::metrics::{served, value};
use crate::pg_tests::support::cluster::Cluster;
use crate::pg_tests::support::{Database, OTHER_TENANT, Session, TENANT, wait_until};

const RATE: u64 = 5;

fn limited(settings: &[&str]) -> (Cluster, Session) {
    let rate = format!("civic.realtime_rate={RATE}");
    let cluster = served(&[&[&*rate], settings].concat());
    let session = cluster.superuser();
    (cluster, session)
}

fn many(tenant: &str, count: u64) -> String {
    format!("INSERT INTO tickets (tenant_id) SELECT '{tenant}' FROM generate_series(1, {count})")
}

/// Of each topic and sensitivity: how many changes are listed, and how many are reported by `BULK`.
fn books(session: &mut Session) -> BTreeMap<(String, bool), (u64, u64)> {
    let mut books = BTreeMap::new();
    for (topic, event, payload) in session.messages() {
        let is_sensitive = payload["is_sensitive"].as_bool().unwrap_or_default();
        let (listed, counted): &mut (u64, u64) = books.entry((topic, is_sensitive)).or_default();
        if event == "BULK" {
            let counts =
                ["insert", "update", "delete"].map(|key| payload[key].as_u64().expect(key));
            *counted += counts.iter().sum::<u64>();
        } else {
            *listed += 1;
        }
    }
    books
}

fn topic(tenant: &str) -> String {
    format!("ticket_updates:{tenant}")
}

#[test]
fn what_exceeds_the_rate_is_reported_in_the_next_second() {
    let (_cluster, mut session) = limited(&[]);
    session.run(&many(TENANT, 30));
    session.run(&insert(OTHER_TENANT, 1, false));
    let own = (topic(TENANT), false);
    wait_until("the others are reported", || books(&mut session)[&own] == (RATE, 30 - RATE));
    assert_eq!(books(&mut session)[&(topic(OTHER_TENANT), false)], (1, 0));
    let reports = session.messages().into_iter().filter(|(_, event, _)| event == "BULK").count();
    assert_eq!(reports, 1);
    let folded = value(&mut session, "pg_civic_rate_limited_changes_total", "{}");
    assert_eq!(folded, (30 - RATE) as f64);
}

#[test]
fn a_transaction_that_is_rolled_back_reports_nothing() {
    let (_cluster, mut session) = limited(&[]);
    session.run(&format!("BEGIN; {}; ROLLBACK", many(TENANT, 30)));
    // The events have been taken out of the transaction when a deferred constraint fails it.
    session.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON tickets DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.category = 'refused') EXECUTE FUNCTION refuse()",
    );
    session.error(&format!(
        "INSERT INTO tickets (tenant_id, category) SELECT '{TENANT}', 'refused'
         FROM generate_series(1, 30)"
    ));
    session.run(&many(OTHER_TENANT, 30));
    let other = (topic(OTHER_TENANT), false);
    wait_until("the others are reported", || books(&mut session)[&other] == (RATE, 30 - RATE));
    assert_eq!(books(&mut session).len(), 1);
}

#[test]
fn sensitive_changes_are_reported_apart_and_to_those_who_may_know() {
    let (_cluster, mut session) = limited(&[]);
    session.run(&format!(
        "BEGIN; {}; INSERT INTO tickets (tenant_id, category, is_sensitive)
             SELECT '{TENANT}', 'gbv', true FROM generate_series(1, 10); COMMIT",
        many(TENANT, RATE + 2)
    ));
    let sensitive = topic(TENANT) + ":sensitive";
    let expected = BTreeMap::from([
        ((topic(TENANT), false), (RATE, 2)),
        ((topic(TENANT), true), (0, 10)),
        ((sensitive, true), (0, 10)),
    ]);
    wait_until("all is reported", || books(&mut session) == expected);
}

#[test]
fn a_prepared_transaction_reports_itself() {
    let (_cluster, mut session) = limited(&["max_prepared_transactions=2"]);
    session.run("BEGIN");
    session.run(&many(TENANT, 30));
    session.run("PREPARE TRANSACTION 'later'");
    assert!(books(&mut session).is_empty());
    session.run("COMMIT PREPARED 'later'");
    assert_eq!(books(&mut session)[&(topic(TENANT), false)], (RATE, 30 - RATE));
}

#[test]
fn without_preloading_the_session_limits_itself_and_reports_at_once() {
    let database = Database::realtime();
    let mut session = database.superuser();
    session.run("SET civic.realtime_rate = 3");
    session.run(&many(TENANT, 10));
    assert_eq!(books(&mut session)[&(topic(TENANT), false)], (3, 7));
    // The same second, as a rule: a report each, and at most three more in a second that has begun.
    session.run(&many(TENANT, 10));
    let (listed, counted) = books(&mut session)[&(topic(TENANT), false)];
    assert!((3..=6).contains(&listed) && listed + counted == 20, "{listed} {counted}");
}

#[test]
fn events_of_the_application_are_sent_whatever_the_rate_is() {
    let (_cluster, mut session) = limited(&[]);
    session.run(&format!(
        "SELECT civic.publish('{TENANT}', jsonb_build_object('type', 'shift', 'n', i))
         FROM generate_series(1, 20) i"
    ));
    assert_eq!(books(&mut session)[&(topic(TENANT), false)], (20, 0));
}

#[test]
fn what_waits_survives_the_end_of_the_process_that_reports_it() {
    let (cluster, mut session) = limited(&[]);
    let reporter = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_civic media tables'";
    let pid = session.text(reporter);
    cluster.hold(&pid);
    session.run(&many(TENANT, 30));
    cluster.signal("TERM", &pid);
    cluster.signal("CONT", &pid);
    let own = (topic(TENANT), false);
    wait_until("the others are reported", || books(&mut session)[&own] == (RATE, 30 - RATE));
}

/// While nobody reports, each transaction does: a dashboard learns of every change.
#[test]
fn without_the_process_each_transaction_reports_itself() {
    let cluster = served(&[]);
    let mut session = cluster.superuser();
    session.run("ALTER SYSTEM SET civic.media_concurrency = 0");
    session.run("SELECT pg_reload_conf()");
    // Without work it stays away from the database once it starts anew.
    let reporter = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE backend_type = 'pg_civic media tables' AND datname IS NOT NULL";
    let up = "pg_civic_worker_up";
    wait_until("it is away", || {
        session.column(reporter);
        value(&mut session, up, "{\"worker\": \"media_tables\"}") == 0.0
    });
    session.run(&format!("SET civic.realtime_rate = {RATE}"));
    session.run(&many(TENANT, 30));
    assert_eq!(books(&mut session)[&(topic(TENANT), false)], (RATE, 30 - RATE));
}

#[test]
fn only_a_superuser_sets_the_rate() {
    let mut session = Database::plain().superuser();
    session.run("SELECT civic.tenant_id()");
    for value in ["-1", "1000000", "'x'"] {
        assert_eq!(session.sqlstate(&format!("SET civic.realtime_rate = {value}")), "22023");
    }
    session.run("SET ROLE authenticated");
    assert_eq!(session.sqlstate("SET civic.realtime_rate = 0"), "42501");
}

/// Many writers of one municipality, each ticket a transaction of its own, beside a municipality with a ticket now and
/// then, before a server that drops what exceeds its limit as Realtime does.
#[test]
fn a_flood_of_single_tickets_costs_no_dashboard_of_another_municipality_an_event() {
    const DASHBOARDS: u64 = 5;
    let (cluster, mut session) = limited(&[]);
    let over = AtomicBool::new(false);
    let written: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let mut writer = cluster.superuser();
                let over = &over;
                scope.spawn(move || {
                    let mut written = 0;
                    while !over.load(Ordering::Relaxed) {
                        writer.run(&many(TENANT, 1));
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        for number in 0..6 {
            session.run(&insert(OTHER_TENANT, number, false));
            std::thread::sleep(Duration::from_millis(700));
        }
        over.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("no panic")).sum()
    });
    let own = (topic(TENANT), false);
    wait_until("every change is listed or reported", || {
        let (listed, counted) = books(&mut session)[&own];
        listed + counted == written
    });
    assert_eq!(books(&mut session)[&(topic(OTHER_TENANT), false)], (6, 0));
    assert!(written > 20 * RATE, "{written}: the flood is one");

    let at = "SELECT extract(epoch FROM inserted_at)::bigint || ' ' || topic FROM realtime.messages
              WHERE extension = 'broadcast' ORDER BY inserted_at";
    let messages = session.column(at);
    let mut limit = RateLimit::new(100);
    let mut delivered = BTreeMap::<String, u64>::new();
    let mut begin = None;
    for message in &messages {
        let (second, topic) = message.split_once(' ').expect("two parts");
        let second: u64 = second.parse().expect("a number");
        let second = second - *begin.get_or_insert(second);
        let receivers = limit.broadcast(Duration::from_secs(second), DASHBOARDS);
        *delivered.entry(topic.to_owned()).or_default() += receivers / DASHBOARDS;
    }
    assert_eq!(delivered[&topic(OTHER_TENANT)], 6, "{delivered:?}");
    assert_eq!(delivered.values().sum::<u64>(), messages.len() as u64);
}
