//! Tests of counted changes: what is counted is what would have been listed.

use std::collections::BTreeMap;

use super::*;
use crate::events::bulk::Change;
use crate::events::payload::{ChangedAt, Column, Detail, Operation, Ticket};
use crate::events::settle;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Tables 8 and 9 are partitions of 8.
fn root(table: u32) -> u32 {
    if table == 9 { 8 } else { table }
}

const OPERATIONS: [Operation; 3] = [Operation::Insert, Operation::Update, Operation::Delete];
const MODES: [SensitiveEvents; 3] =
    [SensitiveEvents::Redacted, SensitiveEvents::Restricted, SensitiveEvents::Full];

#[derive(Debug, Clone)]
enum Step {
    Change {
        table: u32,
        municipality: char,
        id: Option<u8>,
        is_sensitive: bool,
        operation: usize,
    },
    /// An UPDATE without a readable old id makes a ticket sensitive.
    AnySensitive {
        table: u32,
    },
    Rename {
        table: u32,
        old: u8,
        new: u8,
    },
    Savepoint,
    RollBack,
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let table = || prop::sample::select(vec![7_u32, 8, 9]);
    let id = || prop::sample::select(vec![Some(1_u8), Some(2), Some(3), Some(4), Some(5), None]);
    let municipality = prop::sample::select(vec!['a', 'b']);
    let change = (table(), municipality, id(), prop::bool::weighted(0.15), 0..3_usize);
    let change = change.prop_map(|(table, municipality, id, is_sensitive, operation)| {
        Step::Change { table, municipality, id, is_sensitive, operation }
    });
    let rename = (table(), 1..6_u8, 1..6_u8);
    prop::collection::vec(
        prop_oneof![
            12 => change,
            1 => table().prop_map(|table| Step::AnySensitive { table }),
            3 => rename.prop_map(|(table, old, new)| Step::Rename { table, old, new }),
            2 => Just(Step::Savepoint),
            1 => Just(Step::RollBack),
            1 => Just(Step::Release),
        ],
        0..30,
    )
}

fn json_id(id: Option<u8>) -> Vec<u8> {
    id.map_or(b"null".to_vec(), |id| format!("\"{id}\"").into_bytes())
}

/// Lists a change as the trigger does.
fn list(buffer: &mut Buffer, level: i32, mode: SensitiveEvents, change: &Change<'_>, id: &Value) {
    let is_sensitive = change.sensitive.is_some();
    let mut ticket = Ticket::default();
    let municipality = std::str::from_utf8(change.municipality).unwrap();
    ticket.set_json(Column::Id, id, Value::to_string);
    ticket.set_json(Column::TenantId, &json!(municipality), Value::to_string);
    ticket.set_json(Column::IsSensitive, &json!(is_sensitive), Value::to_string);
    for (audience, detail) in payload::deliveries(is_sensitive, mode) {
        let mut event = vec![];
        let detail = if *detail == Detail::Whole { Detail::Whole } else { Detail::Identifying };
        payload::write(&mut event, change.operation, &ticket, ChangedAt::Micros(1), detail);
        let flags = if is_sensitive { change.flags } else { change.flags.with(Flags::ORDINARY) };
        let suffix = if *audience == Audience::Shared { "" } else { channel::SENSITIVE_SUFFIX };
        let channel = format!("{}{municipality}{suffix}", channel::PREFIX);
        buffer.push(level, flags, change.table, channel.as_bytes(), &event).unwrap();
    }
}

/// One transaction, whose changes are all counted or all listed.
fn transaction(steps: &[Step], mode: SensitiveEvents, is_counted: bool) -> Buffer {
    let (mut buffer, mut level) = (Buffer::default(), 1);
    for step in steps {
        match step {
            Step::Change { table, municipality, id, is_sensitive, operation } => {
                let municipality = municipality.to_string();
                let text = json_id(*id);
                if *is_sensitive {
                    buffer.push_sensitive(level, *table, municipality.as_bytes(), &text);
                }
                let change = Change {
                    municipality: municipality.as_bytes(),
                    table: *table,
                    flags: Flags::NOTIFY,
                    sensitive: is_sensitive.then_some(mode),
                    operation: OPERATIONS[*operation],
                    id: &text,
                };
                if is_counted {
                    buffer.count(level, change).unwrap();
                } else {
                    list(&mut buffer, level, mode, &change, &json!(id.map(|id| id.to_string())));
                }
            }
            Step::AnySensitive { table } => buffer.push_sensitive(level, *table, b"", b"null"),
            Step::Rename { table, old, new } => {
                buffer.push_renamed(level, *table, &json_id(Some(*old)), &json_id(Some(*new)));
            }
            Step::Savepoint => level += 1,
            Step::RollBack if level > 1 => {
                buffer.roll_back(level);
                level -= 1;
            }
            Step::Release if level > 1 => {
                buffer.release(level);
                level -= 1;
            }
            Step::RollBack | Step::Release => {}
        }
    }
    while level > 1 {
        buffer.release(level);
        level -= 1;
    }
    buffer
}

/// Channel, whether it is about sensitive tickets, and operation: how many.
type Numbers = BTreeMap<(String, bool, String), u64>;

fn events(buffer: &Buffer) -> impl Iterator<Item = (String, Value)> {
    buffer.events_from(0, Flags::NOTIFY).map(|event| {
        let channel = String::from_utf8(event.channel().to_vec()).unwrap();
        (channel, serde_json::from_slice(event.payload()).unwrap())
    })
}

fn listed(buffer: &Buffer) -> Numbers {
    let mut numbers = Numbers::new();
    for (channel, event) in events(buffer) {
        let is_sensitive =
            channel.ends_with(channel::SENSITIVE_SUFFIX) || event["is_sensitive"] == json!(true);
        let operation = event["type"].as_str().unwrap().to_ascii_lowercase();
        *numbers.entry((channel, is_sensitive, operation)).or_default() += 1;
    }
    numbers
}

fn counted(buffer: &Buffer) -> Numbers {
    let (mut numbers, mut seen) = (Numbers::new(), vec![]);
    for (channel, event) in events(buffer) {
        assert_eq!(event["type"], json!("BULK"));
        let is_sensitive = event["is_sensitive"].as_bool().unwrap();
        seen.push((channel.clone(), is_sensitive));
        for operation in ["insert", "update", "delete"] {
            let number = event[operation].as_u64().unwrap();
            if number > 0 {
                numbers.insert((channel.clone(), is_sensitive, operation.to_owned()), number);
            }
        }
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "one event for each channel and sensitivity");
    numbers
}

proptest! {
    #[test]
    fn what_is_counted_is_what_would_have_been_listed(
        steps in steps(), mode in prop::sample::select(MODES.to_vec())
    ) {
        let mut all_listed = transaction(&steps, mode, false);
        settle::settle(&mut all_listed, 0, mode, &root);
        let mut all_counted = transaction(&steps, mode, true);
        let unpublished = count(&mut all_counted, 0, mode, &root, 1);
        prop_assert_eq!(unpublished, Unpublished::default());
        prop_assert_eq!(counted(&all_counted), listed(&all_listed));
    }

    /// What was sent to Realtime is undone if it is overtaken, counted or listed.
    #[test]
    fn later_records_overtake_what_is_counted_as_what_is_listed(
        sent in steps(), late in steps(), mode in prop::sample::select(MODES.to_vec())
    ) {
        let late = transaction(&late, mode, false);
        let answer = |is_counted| {
            let mut sent = transaction(&sent, mode, is_counted);
            settle::settle(&mut sent, 0, mode, &root);
            count(&mut sent, 0, mode, &root, 1);
            settle::would_change(&sent, &late, mode, &root)
        };
        prop_assert_eq!(answer(true), answer(false));
    }
}

fn count_one(municipality: &str, sensitive: Option<SensitiveEvents>) -> Buffer {
    let mut buffer = Buffer::default();
    let change = Change {
        municipality: municipality.as_bytes(),
        table: 7,
        flags: Flags::NOTIFY,
        sensitive,
        operation: Operation::Insert,
        id: b"\"1\"",
    };
    buffer.count(1, change).unwrap();
    buffer
}

/// A transaction whose function sets `civic.sensitive_events` for its own changes.
#[test]
fn a_sensitive_change_is_reported_as_the_setting_was_when_it_was_made() {
    let mut buffer = count_one("a", Some(SensitiveEvents::Restricted));
    count(&mut buffer, 0, SensitiveEvents::Redacted, &root, 1);
    let channels: Vec<_> = events(&buffer).map(|(channel, _)| channel).collect();
    assert_eq!(channels, ["ticket_updates:a:sensitive"]);
}

#[test]
fn a_change_whose_channel_would_be_too_long_is_reported_as_unpublished() {
    let municipality = "x".repeat(48);
    let mut buffer = count_one(&municipality, None);
    buffer.push_sensitive(1, 7, municipality.as_bytes(), b"\"1\"");
    let unpublished = count(&mut buffer, 0, SensitiveEvents::Restricted, &root, 1);
    let channel = format!("ticket_updates:{municipality}:sensitive");
    assert_eq!((unpublished.unaddressed, unpublished.channel), (1, Some(channel)));
    assert_eq!(events(&buffer).count(), 0);
}

#[test]
fn a_sensitive_ticket_without_an_id_may_be_any_that_was_counted() {
    let mut buffer = count_one("a", None);
    buffer.push_sensitive(1, 7, b"", b"null");
    count(&mut buffer, 0, SensitiveEvents::Redacted, &root, 1);
    let events: Vec<_> = events(&buffer).map(|(_, event)| event["is_sensitive"].clone()).collect();
    assert_eq!(events, [json!(true), json!(true)]);
}

#[test]
fn without_memory_to_settle_no_ordinary_change_is_reported() {
    let mut buffer = count_one("a", None);
    let sensitive = count_one("a", Some(SensitiveEvents::Redacted));
    buffer.append(&sensitive).unwrap();
    let mut unpublished = Unpublished::default();
    let records = write(buffer.bulk(), 0, false, 1, &mut unpublished).unwrap();
    assert_eq!(unpublished.withheld, 1);
    buffer.extend(&records).unwrap();
    let reports: Vec<_> = events(&buffer).map(|(_, event)| event["is_sensitive"].clone()).collect();
    assert_eq!(reports, [json!(true), json!(true)]);
}
