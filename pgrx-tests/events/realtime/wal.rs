//! The events as Realtime reads them: from the write-ahead log, in the format of logical
//! replication.

use std::collections::HashMap;
use std::time::Duration;

use civic_fake_services::RateLimit;
use serde_json::{Value, json};

use super::insert;
use crate::pg_tests::support::cluster::Cluster;
use crate::pg_tests::support::{
    APPLICATION, OTHER_TENANT, REALTIME, SUPABASE, Session, TENANT, extent,
};

/// A row in the log, or the end of a transaction.
#[derive(Debug)]
enum Change {
    Row { table: String, what: char, values: HashMap<String, Option<String>> },
    Commit,
}

/// Reads the output of the server's own plugin `pgoutput` (the chapter "Logical Replication Message
/// Formats").
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        taken
    }

    fn byte(&mut self) -> char {
        self.take(1)[0] as char
    }

    fn int16(&mut self) -> usize {
        u16::from_be_bytes(self.take(2).try_into().unwrap()).into()
    }

    fn int32(&mut self) -> usize {
        u32::from_be_bytes(self.take(4).try_into().unwrap()) as usize
    }

    fn string(&mut self) -> String {
        let end = self.rest.iter().position(|byte| *byte == 0).expect("a NUL behind it");
        let string = String::from_utf8(self.take(end).to_vec()).unwrap();
        self.take(1);
        string
    }

    fn tuple(&mut self) -> Vec<Option<String>> {
        let columns = self.int16();
        let column = |_| match self.byte() {
            't' => {
                let length = self.int32();
                Some(String::from_utf8(self.take(length).to_vec()).unwrap())
            }
            _ => None,
        };
        (0..columns).map(column).collect()
    }
}

/// Everything that a publication has emitted since the last call, in log order.
fn changes(session: &mut Session, slot: &str, publication: &str) -> Vec<Change> {
    let messages = session.column(&format!(
        "SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL,
             'proto_version', '1', 'publication_names', '{publication}')"
    ));
    let mut relations: HashMap<usize, (String, Vec<String>)> = HashMap::new();
    let mut changes = vec![];
    for message in messages {
        let hex = |at: usize| u8::from_str_radix(&message[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..message.len()).step_by(2).map(hex).collect();
        let mut reader = Reader { rest: &bytes };
        match reader.byte() {
            'R' => {
                let relation = reader.int32();
                let name = reader.string() + "." + &reader.string();
                reader.byte();
                let columns = (0..reader.int16()).map(|_| {
                    reader.byte();
                    let column = reader.string();
                    reader.take(8);
                    column
                });
                let columns = columns.collect();
                relations.insert(relation, (name, columns));
            }
            what @ ('I' | 'U') => {
                let (table, columns) = &relations[&reader.int32()];
                assert_eq!(reader.byte(), 'N', "the new row, by its primary key");
                let values = columns.iter().cloned().zip(reader.tuple()).collect();
                changes.push(Change::Row { table: table.clone(), what, values });
            }
            'D' => {
                let (table, columns) = &relations[&reader.int32()];
                assert_eq!(reader.byte(), 'K', "the old row's key");
                let values = columns.iter().cloned().zip(reader.tuple()).collect();
                changes.push(Change::Row { table: table.clone(), what: 'D', values });
            }
            'C' => changes.push(Change::Commit),
            'B' | 'O' | 'Y' => {}
            other => panic!("unexpected message {other}"),
        }
    }
    changes
}

/// A cluster like Supabase's, with a slot for each way in which Realtime reads.
fn cluster() -> Cluster {
    let cluster = Cluster::start(&["wal_level=logical"]);
    let mut session = cluster.superuser();
    for script in [SUPABASE, REALTIME, APPLICATION, "CREATE EXTENSION pg_civic"] {
        session.run(script);
    }
    session.run("SELECT civic.setup('public.tickets')");
    // As Realtime's server creates it.
    session.run(
        "CREATE PUBLICATION supabase_realtime_messages_publication FOR TABLE realtime.messages",
    );
    for slot in ["broadcast", "changes"] {
        session.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    }
    cluster
}

/// Topic and payload of each message in the log.
fn broadcasts(session: &mut Session) -> Vec<(String, Value)> {
    let changes = changes(session, "broadcast", "supabase_realtime_messages_publication");
    let broadcast = |change: &Change| match change {
        Change::Row { table, what, values } => {
            assert!(table.starts_with("realtime.messages"), "{table}");
            assert_eq!(*what, 'I');
            assert_eq!(values["private"].as_deref(), Some("t"));
            assert_eq!(values["extension"].as_deref(), Some("broadcast"));
            let payload: Value = serde_json::from_str(values["payload"].as_ref().unwrap()).unwrap();
            assert_eq!(payload["type"].as_str(), values["event"].as_deref());
            Some((values["topic"].clone().unwrap(), payload))
        }
        Change::Commit => None,
    };
    changes.iter().filter_map(broadcast).collect()
}

#[test]
fn each_event_is_one_row_of_the_log_in_order_and_redacted() {
    let cluster = cluster();
    let mut session = cluster.superuser();
    session.run(&insert(TENANT, 1, false));
    session.run(&format!(
        "BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s;
         UPDATE tickets SET status = 'closed' WHERE tracking_number = 'TKT-1'; COMMIT",
        insert(TENANT, 2, true),
        insert(TENANT, 3, false)
    ));
    session.run(&format!("BEGIN; {} ROLLBACK", insert(TENANT, 4, false)));
    session.run(&format!("SELECT civic.publish('{TENANT}', '{{\"type\": \"sla_breach\"}}')"));
    let shared = format!("ticket_updates:{TENANT}");
    let sensitive = shared.clone() + ":sensitive";
    let published: Vec<_> = broadcasts(&mut session)
        .into_iter()
        .map(|(topic, payload)| {
            let part = |key: &str| payload[key].clone();
            (topic, part("type"), part("tracking_number"), part("category"))
        })
        .collect();
    assert_eq!(
        published,
        [
            (shared.clone(), json!("INSERT"), json!("TKT-1"), json!("water")),
            (shared.clone(), json!("INSERT"), Value::Null, Value::Null),
            (sensitive, json!("INSERT"), json!("TKT-2"), json!("gbv")),
            (shared.clone(), json!("UPDATE"), json!("TKT-1"), json!("water")),
            (shared, json!("sla_breach"), Value::Null, Value::Null),
        ]
    );
    assert_eq!(broadcasts(&mut session), [], "and nothing twice");
}

#[test]
fn concurrent_transactions_are_published_in_commit_order() {
    let cluster = cluster();
    let (mut first, mut second) = (cluster.superuser(), cluster.superuser());
    first.run(&format!("BEGIN; {}", insert(TENANT, 1, false)));
    second.run(&format!("BEGIN; {}", insert(TENANT, 2, false)));
    first.run(&insert(TENANT, 3, false));
    second.run("COMMIT");
    first.run("COMMIT");
    let published = broadcasts(&mut first);
    let numbers: Vec<_> =
        published.iter().map(|(_, payload)| payload["tracking_number"].clone()).collect();
    assert_eq!(numbers, ["TKT-2", "TKT-1", "TKT-3"]);
}

#[test]
fn the_publication_contains_each_changed_ticket() {
    let cluster = cluster();
    let mut session = cluster.superuser();
    session.run(&insert(TENANT, 1, false));
    session.run("UPDATE tickets SET status = 'closed'");
    session.run(&format!("BEGIN; {} ROLLBACK", insert(TENANT, 2, false)));
    let mut published = vec![];
    for change in changes(&mut session, "changes", "supabase_realtime") {
        published.push(match change {
            Change::Row { table, what, values } => {
                format!("{what} {table} {}", values["status"].as_deref().unwrap())
            }
            Change::Commit => "C".to_owned(),
        });
    }
    published.retain(|published| published != "C");
    assert_eq!(published, ["I public.tickets open", "U public.tickets closed"]);
}

/// What the real server does with 2,000 tickets in one transaction before five dashboards, and with its limit
/// raised.
#[test]
fn a_large_transaction_silences_every_municipality_unless_the_limit_is_raised() {
    const DASHBOARDS: u64 = 5;
    let cluster = cluster();
    let mut session = cluster.superuser();
    session.run("SET civic.bulk_after = 0");
    session.run(&format!(
        "INSERT INTO tickets (tenant_id) SELECT '{TENANT}' FROM generate_series(1, 2000)"
    ));
    let imported = broadcasts(&mut session);
    session.run(&insert(OTHER_TENANT, 1, false));
    let next = broadcasts(&mut session);
    assert_eq!((imported.len(), next.len()), (2000, 1));
    for (limit, receives_next) in [(100, false), (20_000, true)] {
        let mut limit = RateLimit::new(limit);
        let mut receive = |messages: &[(String, Value)], second: u64| -> u64 {
            let at = Duration::from_secs(second);
            messages.iter().map(|_| limit.broadcast(at, DASHBOARDS)).sum()
        };
        assert_eq!(receive(&[], 0), 0);
        assert_eq!(receive(&imported, 60), 2000 * DASHBOARDS, "all of them arrive");
        assert_eq!(receive(&next, 70) == DASHBOARDS, receives_next);
        assert_eq!(receive(&next, 110) == DASHBOARDS, receives_next);
        assert_eq!(receive(&next, 130), DASHBOARDS, "a minute later");
    }
}

/// The topics of what Realtime reads while one municipality imports and another has a ticket every second, for a
/// minute.
fn topics_of_an_import(tickets: u32, bulk_after: u32) -> Vec<String> {
    let cluster = cluster();
    let (mut import, mut town) = (cluster.superuser(), cluster.superuser());
    import.run(&format!("SET civic.bulk_after = {bulk_after}"));
    import.run(&format!(
        "BEGIN; INSERT INTO tickets (tenant_id, category) SELECT '{TENANT}', 'x'
         FROM generate_series(1, {tickets})"
    ));
    for number in 0..SECONDS {
        town.run(&insert(OTHER_TENANT, number, false));
        if number == SECONDS / 4 {
            import.run("COMMIT");
        }
    }
    assert_eq!(town.text("SELECT count(*) FROM tickets"), (tickets + SECONDS).to_string());
    broadcasts(&mut town).into_iter().map(|(topic, _)| topic).collect()
}

const SECONDS: u32 = 60;

/// How many of its tickets the other municipality's dashboard receives, with Realtime's default limit.
fn received_beside(topics: &[String]) -> u32 {
    let (mut limit, mut received) = (RateLimit::new(100), 0);
    let mut second = 60;
    for topic in topics {
        let is_own = topic.ends_with(OTHER_TENANT);
        second += u64::from(is_own);
        let delivered = limit.broadcast(Duration::from_secs(second), 2);
        received += u32::from(is_own && delivered > 0);
    }
    received
}

/// An import in one transaction mutes nobody; listed ticket by ticket it mutes everybody.
#[test]
fn an_import_costs_no_dashboard_of_another_municipality_an_event() {
    let topics = topics_of_an_import(extent(5_000, 200_000), 1000);
    assert_eq!(topics.len(), 1001 + SECONDS as usize);
    assert_eq!(received_beside(&topics), SECONDS);
    let topics = topics_of_an_import(5_000, 0);
    assert_eq!(topics.len(), 5_000 + SECONDS as usize);
    assert!(received_beside(&topics) < SECONDS / 2);
}

/// Realtime sends a DELETE to every subscriber, whatever row security says, so it must not be in what it reads.
#[test]
fn the_publication_contains_no_deleted_ticket() {
    let cluster = cluster();
    let mut session = cluster.superuser();
    let deleted = |session: &mut Session| -> Vec<String> {
        session.run(&insert(TENANT, 1, false));
        session.run("DELETE FROM tickets");
        let changes = changes(session, "changes", "supabase_realtime");
        let operation = |change: Change| match change {
            Change::Row { what, values, .. } => {
                assert!(values["id"].is_some());
                Some(what.to_string())
            }
            Change::Commit => None,
        };
        changes.into_iter().filter_map(operation).collect()
    };
    assert_eq!(deleted(&mut session), ["I"]);
    let published = broadcasts(&mut session);
    let kinds: Vec<_> = published.iter().map(|(_, payload)| payload["type"].clone()).collect();
    assert_eq!(kinds, ["INSERT", "DELETE"], "those who may know receive it as a broadcast");
    session.run("SELECT civic.teardown()");
    assert_eq!(deleted(&mut session), ["I", "D"], "as it was before setup");
}

#[test]
fn a_crash_between_commits_loses_no_event_of_a_committed_ticket() {
    let cluster = cluster();
    let mut session = cluster.superuser();
    session.run(&insert(TENANT, 1, false));
    session.run(&format!("BEGIN; {}", insert(TENANT, 2, false)));
    cluster.stop("immediate");
    cluster.start_again();
    let mut session = cluster.superuser();
    let published: Vec<_> = broadcasts(&mut session);
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].1["tracking_number"], json!("TKT-1"));
}
