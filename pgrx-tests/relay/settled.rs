//! With the relay too, no event of a ticket that becomes sensitive in its transaction reaches the
//! shared channel whole.

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
    wait_until("the end is received", || {
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
fn every_route_publishes_settled_events() {
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
    assert_eq!(listener.receive_until("end"), ["end"]);
}

/// A null is longer than a digit, so the redacted form was longer than NOTIFY accepts. The relay
/// then failed, and failed again after every restart.
#[test]
fn an_event_that_grows_when_redacted_does_not_stop_the_relay() {
    let cluster = relayed(&[]);
    let mut writer = cluster.superuser();
    let many = (0..800).map(|key| format!("\"k{key}\": 1")).collect::<Vec<_>>().join(", ");
    writer.run(&format!("SELECT civic.publish('t', '{{\"type\": \"x\", {many}}}', true)"));
    let mut listener = Listener::of(cluster.superuser(), "t");
    writer.run(&super::insert(1, "t", "end"));
    assert_eq!(listener.receive_until("end").last().map(String::as_str), Some("end"));
    super::assert_queue_empties(&mut writer);
    assert!(!cluster.log().contains("payload string too long"));
}

/// Random numbers, reproducible by seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ bits >> 31) % limit
    }
}

/// A change of a ticket: its id, whether it makes the ticket sensitive, and its status, which is
/// unique.
type Change = (u64, bool, String);

/// One random transaction with savepoints. Returns its statements, and the changes that it commits.
fn transaction(random: &mut Random, name: &str) -> (String, Vec<Change>) {
    let mut statements = vec!["BEGIN".to_owned()];
    let mut levels: Vec<Vec<Change>> = vec![vec![]];
    for step in 0..1 + random.below(12) {
        match random.below(8) {
            0 => {
                statements.push(format!("SAVEPOINT s{}", levels.len()));
                levels.push(vec![]);
            }
            1 | 2 if levels.len() > 1 => {
                let changes = levels.pop().expect("there is one");
                let is_kept = random.below(2) == 0;
                let command = if is_kept { "RELEASE" } else { "ROLLBACK TO" };
                statements.push(format!("{command} s{}", levels.len()));
                if is_kept {
                    levels.last_mut().expect("there is one").extend(changes);
                } else {
                    // The savepoint itself remains: what follows is inside it.
                    levels.push(vec![]);
                }
            }
            _ => {
                let (id, is_sensitive) = (1 + random.below(4), random.below(4) == 0);
                let status = format!("{name}.{step}");
                statements.push(format!(
                    "UPDATE reports SET is_sensitive = {is_sensitive}, category = '{status}' WHERE id = {id}"
                ));
                levels.last_mut().expect("there is one").push((id, is_sensitive, status));
            }
        }
    }
    let is_committed = random.below(6) > 0;
    statements.push(if is_committed { "COMMIT" } else { "ROLLBACK" }.to_owned());
    (statements.join("; "), if is_committed { levels.concat() } else { vec![] })
}

#[test]
fn random_transactions_publish_whole_only_tickets_that_are_never_sensitive_in_them() {
    const SEED: u64 = 0x5e77_1ed0;
    let cluster = relayed(&[TINY]);
    let mut writer = cluster.superuser();
    writer.run(TABLE);
    writer.run("INSERT INTO reports SELECT i, 't', 'start', false FROM generate_series(1, 4) i");
    let mut listener = cluster.superuser();
    listener.listens_to("t");
    let mut random = Random(SEED);
    let (mut shared, mut sensitive, mut redacted) = (vec![], vec![], 0);
    for number in 0..400 {
        let relay = if random.below(3) == 0 { "off" } else { "on" };
        let (statements, changes) = transaction(&mut random, &number.to_string());
        writer.run(&format!("SET civic.relay = {relay}"));
        writer.run(&statements);
        for (id, _, status) in &changes {
            let is_sensitive = changes.iter().any(|(other, is, _)| other == id && *is);
            if is_sensitive { &mut sensitive } else { &mut shared }.push(status.clone());
            redacted += usize::from(is_sensitive);
        }
    }
    writer.run("SET civic.relay = on; SELECT civic.publish('t', '{\"type\": \"end\"}')");
    let (mut heard_shared, mut heard_sensitive, mut nulls, mut is_over) =
        (vec![], vec![], 0, false);
    wait_until("the end is received", || {
        for (channel, payload) in listener.heard() {
            let event: Value = serde_json::from_str(&payload).expect("JSON");
            match event["category"].as_str() {
                Some("start") => {}
                Some(status) if channel.ends_with(":sensitive") => {
                    heard_sensitive.push(status.to_owned())
                }
                Some(status) => heard_shared.push(status.to_owned()),
                None => nulls += 1,
            }
            is_over |= event["type"] == "end";
        }
        is_over
    });
    assert_eq!(heard_shared, shared, "seed {SEED}");
    assert_eq!(heard_sensitive, sensitive, "seed {SEED}");
    // The updates of one transaction have the same time, so NOTIFY sends one redacted form per
    // ticket.
    assert!(nulls > 1 && nulls <= redacted + 1, "{nulls} of {redacted}");
    assert!(shared.len() > 300 && sensitive.len() > 100, "{} {}", shared.len(), sensitive.len());
}
