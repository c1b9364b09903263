//! With the relay as without it: no event of a ticket that becomes sensitive in its transaction
//! reaches the shared channel whole.

use serde_json::Value;

use super::{Listener, TINY, fell_back, relayed};
use crate::pg_tests::support::cluster::Cluster;
use crate::pg_tests::support::wait_until;

const TABLE: &str = "
    CREATE EXTENSION IF NOT EXISTS pg_civic;
    CREATE TABLE reports (id int, tenant_id text, category text, is_sensitive boolean);
    CREATE TRIGGER tell AFTER INSERT OR UPDATE ON reports
        FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()";

/// Events on both channels up to the end, as channel, ticket and category.
fn collect(
    cluster: &Cluster,
    database: &str,
    transaction: &str,
    relay: &str,
) -> Vec<(String, String, Value)> {
    let mut listener = cluster.superuser_of(database);
    listener.listens_to("t");
    let mut writer = cluster.superuser_of(database);
    writer.run(&format!("SET civic.relay = {relay}"));
    writer.run(transaction);
    writer.run("SELECT civic.publish('t', '{\"type\": \"end\"}')");
    let mut events = vec![];
    wait_until("the end is heard", || {
        events.extend(listener.heard());
        events.iter().any(|(_, payload)| payload.contains("\"end\""))
    });
    assert_eq!(writer.warnings().len(), 0);
    let parse = |(channel, payload): (String, String)| {
        let event: Value = serde_json::from_str(&payload).expect("JSON");
        let id = event["ticket_id"].as_str().unwrap_or("end").to_owned();
        (channel, id, event["category"].clone())
    };
    events.into_iter().map(parse).filter(|(_, id, _)| id != "end").collect()
}

#[test]
fn every_way_around_and_through_the_relay_publishes_what_is_settled() {
    let cluster = relayed(&[TINY]);
    let mut admin = cluster.superuser();
    admin.run(TABLE);
    admin.run("CREATE DATABASE other");
    cluster.superuser_of("other").run(TABLE);
    for (database, relay, count, reason) in [
        ("postgres", "on", 1, None),
        ("postgres", "off", 1, Some("off")),
        ("postgres", "on", 300, Some("too_large")),
        ("other", "on", 1, Some("other_database")),
    ] {
        let case = format!("{database}, relay {relay}, {count}");
        cluster.superuser_of(database).run("TRUNCATE reports");
        let before = reason.map(|reason| fell_back(&mut admin, reason));
        let transaction = format!(
            "BEGIN; INSERT INTO reports SELECT 1000 + i, 't', 'gbv', false FROM generate_series(1, {count}) i;
             INSERT INTO reports VALUES (1, 't', 'water', false);
             SAVEPOINT s; UPDATE reports SET is_sensitive = true WHERE id = 1; ROLLBACK TO s;
             UPDATE reports SET is_sensitive = true WHERE id > 1000; COMMIT"
        );
        let events = collect(&cluster, database, &transaction, relay);
        assert_eq!(events.len(), 4 * count + 1, "{case}");
        for (channel, id, category) in &events {
            let is_whole = channel.ends_with(":sensitive") || id == "1";
            assert_eq!(!category.is_null(), is_whole, "{case}: {channel} {id} {category}");
        }
        if let (Some(reason), Some(before)) = (reason, before) {
            assert!(fell_back(&mut admin, reason) > before, "{case}");
        }
    }
    // The cluster's own table of ordinary tickets is published as before.
    let mut listener = Listener::of(cluster.superuser(), "u");
    admin.run(&super::insert(1, "u", "end"));
    assert_eq!(listener.hears("end"), ["end"]);
}
