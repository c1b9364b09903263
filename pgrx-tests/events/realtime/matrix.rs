//! Who receives what: each role, of the own municipality and of another, on each topic, for each
//! kind of ticket, in each mode. The table below is the one in docs/security.md.

use serde_json::Value;

use super::{Message, insert};
use crate::pg_tests::support::{Database, OTHER_TENANT, TENANT, claims};

const TABLE: &str = "\
| role | channel | ordinary ticket | sensitive, `redacted` | sensitive, `restricted` | sensitive, `full` |
|---|---|---|---|---|---|
| admin | shared | everything | that it changed | – | everything |
| admin | `:sensitive` | – | everything | everything | – |
| saps_liaison | shared | everything | that it changed | – | everything |
| saps_liaison | `:sensitive` | – | everything | everything | – |
| manager | shared | everything | that it changed | – | everything |
| manager | `:sensitive` | – | – | – | – |
| ward_councillor | shared | everything | that it changed | – | everything |
| ward_councillor | `:sensitive` | – | – | – | – |
| field_worker | shared | – | – | – | – |
| field_worker | `:sensitive` | – | – | – | – |
| citizen | shared | – | – | – | – |
| citizen | `:sensitive` | – | – | – | – |
| none, or any other | shared | – | – | – | – |
| none, or any other | `:sensitive` | – | – | – | – |
| anybody of another municipality | shared | – | – | – | – |
| anybody of another municipality | `:sensitive` | – | – | – | – |
";

const KINDS: [(bool, &str); 4] =
    [(false, "redacted"), (true, "redacted"), (true, "restricted"), (true, "full")];

/// The roles of a row, and their municipality.
const ROWS: [(&str, &[&str], &str); 8] = [
    ("admin", &["admin", "ADMIN"], TENANT),
    ("saps_liaison", &["saps_liaison", "SAPS_LIAISON"], TENANT),
    ("manager", &["manager"], TENANT),
    ("ward_councillor", &["ward_councillor"], TENANT),
    ("field_worker", &["field_worker"], TENANT),
    ("citizen", &["citizen"], TENANT),
    ("none, or any other", &["", "executive_mayor", "administrator", "admin,manager"], TENANT),
    (
        "anybody of another municipality",
        &["admin", "saps_liaison", "manager", "ward_councillor", "citizen"],
        OTHER_TENANT,
    ),
];

/// The part of a ticket that a channel has received.
fn detail(messages: &[Message], topic: &str) -> &'static str {
    let published: Vec<_> = messages.iter().filter(|(at, ..)| at == topic).collect();
    match published.as_slice() {
        [] => "–",
        [(_, _, payload)] => {
            let is_told = |key: &&str| payload[*key] != Value::Null;
            let secret = ["tracking_number", "status", "category"];
            let identifying =
                ["type", "ticket_id", "municipality_id", "is_sensitive", "updated_at"];
            assert!(identifying.iter().all(is_told), "{payload}");
            match secret.iter().filter(|key| is_told(key)).count() {
                0 => "that it changed",
                3 => "everything",
                _ => panic!("half of it is published: {payload}"),
            }
        }
        _ => panic!("published twice: {published:?}"),
    }
}

#[test]
fn each_role_receives_what_the_table_says() {
    let mut session = Database::realtime().superuser();
    let shared = format!("ticket_updates:{TENANT}");
    let channels = [("shared", shared.clone()), ("`:sensitive`", shared + ":sensitive")];
    let published: Vec<_> = KINDS
        .into_iter()
        .map(|(is_sensitive, mode)| {
            session.run("DELETE FROM tickets");
            session.run("DELETE FROM realtime.messages");
            session.run(&format!("SET civic.sensitive_events = {mode}"));
            session.run(&insert(TENANT, 1, is_sensitive));
            session.messages()
        })
        .collect();
    let mut table = TABLE.lines().take(2).map(|line| line.to_owned() + "\n").collect::<String>();
    for (row, roles, tenant_id) in ROWS {
        for (name, topic) in &channels {
            let mut cells = vec![];
            for messages in &published {
                let received = roles.iter().map(|role| {
                    match session.may_join("authenticated", &claims(tenant_id, role), topic) {
                        (true, true) => detail(messages, topic),
                        (false, false) => "–",
                        half => panic!("{role} {topic}: {half:?}"),
                    }
                });
                let mut received: Vec<_> = received.collect();
                received.dedup();
                assert_eq!(received.len(), 1, "the roles of a row receive the same: {row}");
                cells.push(received[0]);
            }
            table.push_str(&format!("| {row} | {name} | {} |\n", cells.join(" | ")));
        }
    }
    assert_eq!(table, TABLE);
}

#[test]
fn the_table_is_the_one_in_the_documentation() {
    assert!(include_str!("../../../docs/security.md").contains(TABLE));
}
