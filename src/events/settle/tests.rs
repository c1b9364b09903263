//! Tests of settling, by example and against a simple model.

use super::*;
use crate::events::payload::{self, ChangedAt, Column, Detail, Operation, Ticket};
use proptest::prelude::*;
use serde_json::{Value, json};

const TABLE: u32 = 7;

/// The event of an UPDATE in the trigger's form.
fn written(id: &Value, status: &str) -> Vec<u8> {
    let mut ticket = Ticket::default();
    ticket.set_json(Column::Id, id, Value::to_string);
    ticket.set_json(Column::TenantId, &json!("a"), Value::to_string);
    ticket.set_json(Column::Status, &json!(status), Value::to_string);
    ticket.set_json(Column::IsSensitive, &json!(false), Value::to_string);
    let mut out = vec![];
    payload::write(&mut out, Operation::Update, &ticket, ChangedAt::Micros(1), Detail::Whole);
    out
}

fn token(id: &Value) -> Vec<u8> {
    payload::written_ticket_id(&written(id, "")).unwrap().to_vec()
}

fn ordinary(buffer: &mut Buffer, table: u32, municipality: &str, id: &Value, status: &str) {
    let flags = Flags::NOTIFY.with(Flags::ORDINARY).with(Flags::HAS_ROOM);
    let channel = format!("ticket_updates:{municipality}");
    buffer.push(1, flags, table, channel.as_bytes(), &written(id, status)).unwrap();
}

fn to_owner(buffer: &mut Buffer, table: u32, id: &Value, status: &str) {
    let flags = Flags::REALTIME.with(Flags::ORDINARY).with(Flags::OWNER);
    buffer.push(1, flags, table, b"ticket_owner:u", &written(id, status)).unwrap();
}

/// The status in each event to an owner.
fn owned(buffer: &Buffer) -> Vec<Value> {
    let status = |event: Record<'_>| {
        serde_json::from_slice::<Value>(event.payload()).unwrap()["status"].take()
    };
    buffer.events_from(0, Flags::OWNER).map(status).collect()
}

fn itself(table: u32) -> u32 {
    table
}

fn settled(buffer: &mut Buffer, mode: SensitiveEvents) -> Unpublished {
    settle(buffer, 0, mode, &itself)
}

/// Channel, status and `is_sensitive` of each event.
fn published(buffer: &Buffer) -> Vec<(String, Value, Value)> {
    buffer
        .events_from(0, Flags::NOTIFY)
        .map(|event| {
            let channel = String::from_utf8(event.channel().to_vec()).unwrap();
            let mut event: Value = serde_json::from_slice(event.payload()).unwrap();
            (channel, event["status"].take(), event["is_sensitive"].take())
        })
        .collect()
}

fn shared(status: Value, is_sensitive: bool) -> (String, Value, Value) {
    ("ticket_updates:a".to_owned(), status, json!(is_sensitive))
}

fn sensitive(status: &str) -> (String, Value, Value) {
    ("ticket_updates:a:sensitive".to_owned(), json!(status), json!(false))
}

#[test]
fn each_mode_settles_events_as_it_publishes_sensitive_tickets() {
    for (mode, expected) in [
        (SensitiveEvents::Redacted, vec![shared(Value::Null, true), sensitive("open")]),
        (SensitiveEvents::Restricted, vec![sensitive("open")]),
        (SensitiveEvents::Full, vec![shared(json!("open"), false)]),
    ] {
        let mut buffer = Buffer::default();
        ordinary(&mut buffer, TABLE, "a", &json!(1), "open");
        buffer.push_sensitive(1, TABLE, b"a", &token(&json!(1)));
        ordinary(&mut buffer, TABLE, "a", &json!(2), "closed");
        assert_eq!(settled(&mut buffer, mode), Unpublished::default());
        let expected = [expected, vec![shared(json!("closed"), false)]].concat();
        assert_eq!(published(&buffer), expected);
        // Settling again, or from the end, changes nothing.
        let end = buffer.len();
        settled(&mut buffer, mode);
        settle(&mut buffer, end, mode, &itself);
        assert_eq!(published(&buffer), expected);
    }
}

#[test]
fn the_reserved_room_belongs_to_the_shared_form() {
    let mut buffer = Buffer::default();
    ordinary(&mut buffer, TABLE, "a", &json!(1), "open");
    buffer.push_sensitive(1, TABLE, b"a", &token(&json!(1)));
    settled(&mut buffer, SensitiveEvents::Redacted);
    let rooms: Vec<_> = buffer
        .events_from(0, Flags::NOTIFY)
        .map(|event| event.flags.has(Flags::HAS_ROOM))
        .collect();
    assert_eq!(rooms, [true, false]);
}

#[test]
fn in_every_mode_an_owner_receives_nothing_of_a_sensitive_ticket() {
    for mode in [SensitiveEvents::Redacted, SensitiveEvents::Restricted, SensitiveEvents::Full] {
        let mut buffer = Buffer::default();
        to_owner(&mut buffer, TABLE, &json!(1), "secret");
        to_owner(&mut buffer, TABLE, &json!(2), "open");
        buffer.push_renamed(1, TABLE, &token(&json!(1)), &token(&json!(3)));
        buffer.push_sensitive(1, TABLE, b"a", &token(&json!(3)));
        assert_eq!(settled(&mut buffer, mode), Unpublished::default());
        assert_eq!(owned(&buffer), ["open"], "{mode:?}");
        assert_eq!(settled(&mut buffer, mode), Unpublished::default());
        assert_eq!(owned(&buffer), ["open"], "{mode:?}");
    }
}

#[test]
fn a_ticket_that_was_sensitive_is_an_ordinary_one_for_all_but_its_owner() {
    for mode in [SensitiveEvents::Redacted, SensitiveEvents::Full] {
        let mut buffer = Buffer::default();
        ordinary(&mut buffer, TABLE, "a", &json!(1), "closed");
        to_owner(&mut buffer, TABLE, &json!(1), "closed");
        to_owner(&mut buffer, 8, &json!(1), "another table");
        buffer.push_was_sensitive(1, TABLE, &token(&json!(1)));
        settled(&mut buffer, mode);
        assert_eq!(published(&buffer), [shared(json!("closed"), false)], "{mode:?}");
        assert_eq!(owned(&buffer), ["another table"], "{mode:?}");
    }
}

#[test]
fn a_sensitive_ticket_without_an_id_may_be_any_owners() {
    for push in [
        (|buffer: &mut Buffer| buffer.push_sensitive(1, TABLE, b"b", NO_ID)) as fn(&mut Buffer),
        |buffer| buffer.push_was_sensitive(1, TABLE, NO_ID),
    ] {
        let mut buffer = Buffer::default();
        to_owner(&mut buffer, TABLE, &json!(1), "open");
        to_owner(&mut buffer, 8, &json!(2), "another table");
        push(&mut buffer);
        settled(&mut buffer, SensitiveEvents::Redacted);
        assert_eq!(owned(&buffer), ["another table"]);
    }
}

#[test]
fn without_memory_to_settle_no_owner_receives_anything_in_any_mode() {
    for mode in [SensitiveEvents::Redacted, SensitiveEvents::Full] {
        let mut buffer = Buffer::default();
        ordinary(&mut buffer, TABLE, "a", &json!(1), "open");
        to_owner(&mut buffer, TABLE, &json!(1), "open");
        buffer.withhold(0, |flags| is_open(flags, mode));
        assert_eq!(owned(&buffer).len(), 0, "{mode:?}");
        let left = if mode == SensitiveEvents::Full { 1 } else { 0 };
        assert_eq!(published(&buffer).len(), left, "{mode:?}");
    }
}

#[test]
fn a_late_sensitive_version_of_what_an_owner_was_sent_is_detected_in_every_mode() {
    for mode in [SensitiveEvents::Redacted, SensitiveEvents::Restricted, SensitiveEvents::Full] {
        for (id, expected) in [(1, true), (2, false)] {
            for was in [false, true] {
                let (mut sent, mut late) = (Buffer::default(), Buffer::default());
                to_owner(&mut sent, TABLE, &json!(1), "open");
                match was {
                    true => late.push_was_sensitive(3, TABLE, &token(&json!(id))),
                    false => late.push_sensitive(3, TABLE, b"a", &token(&json!(id))),
                }
                assert_eq!(
                    would_change(&sent, &late, mode, &itself),
                    expected,
                    "{mode:?} {id} {was}"
                );
            }
        }
    }
}

#[test]
fn partitions_count_as_one_table() {
    let mut buffer = Buffer::default();
    ordinary(&mut buffer, 1, "a", &json!(1), "open");
    ordinary(&mut buffer, 3, "a", &json!(1), "other");
    buffer.push_sensitive(1, 2, b"a", &token(&json!(1)));
    let root_of = |table| if table < 3 { 9 } else { table };
    settle(&mut buffer, 0, SensitiveEvents::Restricted, &root_of);
    assert_eq!(published(&buffer), [sensitive("open"), shared(json!("other"), false)]);
}

#[test]
fn a_chain_of_changed_ids_of_any_length_is_one_ticket() {
    let mut buffer = Buffer::default();
    for id in 1..=50_000 {
        buffer.push_renamed(1, TABLE, &token(&json!(id)), &token(&json!(id + 1)));
    }
    ordinary(&mut buffer, TABLE, "a", &json!(1), "first");
    ordinary(&mut buffer, TABLE, "a", &json!(0), "other");
    buffer.push_sensitive(1, TABLE, b"a", &token(&json!(50_001)));
    settled(&mut buffer, SensitiveEvents::Restricted);
    assert_eq!(published(&buffer), [sensitive("first"), shared(json!("other"), false)]);
}

#[test]
fn a_ticket_that_gets_its_id_in_another_municipality_is_redacted_in_the_old_one() {
    let mut buffer = Buffer::default();
    ordinary(&mut buffer, TABLE, "a", &Value::Null, "first");
    buffer.push_renamed(1, TABLE, NO_ID, &token(&json!(1)));
    buffer.push_sensitive(1, TABLE, b"b", &token(&json!(1)));
    settled(&mut buffer, SensitiveEvents::Restricted);
    assert_eq!(published(&buffer), [sensitive("first")]);
}

#[test]
fn a_published_uuid_matches_in_any_spelling() {
    let id = "8f14e45f-ceea-467f-a83c-6d8b04dd5d30";
    let spellings = [id.to_owned(), id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}")];
    for (spelling, is_same) in
        spellings.iter().map(|id| (id.as_str(), true)).chain([("8f14e45f", false)])
    {
        let mut buffer = Buffer::default();
        let event = json!({"type": "x", "ticket_id": spelling}).to_string();
        let flags = Flags::NOTIFY.with(Flags::ORDINARY);
        buffer.push(1, flags, 0, b"ticket_updates:a", event.as_bytes()).unwrap();
        buffer.push_sensitive(1, TABLE, b"a", &token(&json!(id)));
        settled(&mut buffer, SensitiveEvents::Restricted);
        let channel = &published(&buffer)[0].0;
        assert_eq!(channel == "ticket_updates:a:sensitive", is_same, "{spelling}");
    }
}

#[test]
fn a_version_without_an_id_may_be_of_any_ticket_of_the_municipality() {
    for (municipality, others) in [("a", false), ("", true)] {
        let mut buffer = Buffer::default();
        ordinary(&mut buffer, TABLE, "a", &json!(1), "own");
        ordinary(&mut buffer, TABLE, "b", &json!(2), "other");
        ordinary(&mut buffer, 8, "a", &json!(3), "table");
        buffer.push_sensitive(1, TABLE, municipality.as_bytes(), NO_ID);
        settled(&mut buffer, SensitiveEvents::Restricted);
        let channels: Vec<_> = published(&buffer).into_iter().map(|event| event.0).collect();
        let other = if others { "ticket_updates:b:sensitive" } else { "ticket_updates:b" };
        assert_eq!(channels, ["ticket_updates:a:sensitive", other, "ticket_updates:a"]);
    }
}

#[test]
fn an_event_without_an_id_may_be_of_any_sensitive_ticket_of_the_municipality() {
    let mut buffer = Buffer::default();
    for municipality in ["a", "b"] {
        ordinary(&mut buffer, TABLE, municipality, &Value::Null, "x");
    }
    buffer.push_sensitive(1, TABLE, b"a", &token(&json!(1)));
    settled(&mut buffer, SensitiveEvents::Restricted);
    let channels: Vec<_> = published(&buffer).into_iter().map(|event| event.0).collect();
    assert_eq!(channels, ["ticket_updates:a:sensitive", "ticket_updates:b"]);
}

#[test]
fn without_memory_to_settle_no_ordinary_event_is_published() {
    let mut buffer = Buffer::default();
    ordinary(&mut buffer, TABLE, "a", &json!(1), "open");
    buffer.push(1, Flags::NOTIFY, TABLE, b"ticket_updates:a:sensitive", b"{}").unwrap();
    assert_eq!(buffer.withhold(0, |flags| flags.has(Flags::ORDINARY)), 1);
    assert_eq!(published(&buffer).len(), 1);
}

#[test]
fn a_channel_that_becomes_too_long_loses_only_the_whole_event() {
    let mut buffer = Buffer::default();
    ordinary(&mut buffer, TABLE, &"x".repeat(40), &json!(1), "open");
    buffer.push_sensitive(1, TABLE, b"", &token(&json!(1)));
    let unpublished = settled(&mut buffer, SensitiveEvents::Redacted);
    assert_eq!(unpublished.unaddressed, 1);
    assert!(unpublished.channel.unwrap().ends_with("x:sensitive"));
    assert_eq!(published(&buffer).len(), 1);
    assert_eq!(published(&buffer)[0].1, Value::Null);
}

#[test]
fn a_late_sensitive_version_of_a_sent_ticket_is_detected() {
    for (id, mode, expected) in [
        (1, SensitiveEvents::Redacted, true),
        (2, SensitiveEvents::Redacted, false),
        (1, SensitiveEvents::Full, false),
    ] {
        let (mut sent, mut late) = (Buffer::default(), Buffer::default());
        ordinary(&mut sent, TABLE, "a", &json!(1), "open");
        late.push_sensitive(3, TABLE, b"a", &token(&json!(id)));
        assert_eq!(would_change(&sent, &late, mode, &itself), expected);
        // A redacted event is not sent whole.
        sent.push_sensitive(1, TABLE, b"a", &token(&json!(1)));
        settled(&mut sent, mode);
        assert!(!would_change(&sent, &late, mode, &itself));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ordinary(u8, u8),
    ToOwner(u8, u8),
    Sensitive(u8, u8),
    WasSensitive(u8, u8),
    Renamed(u8, u8),
    Begin,
    Release,
    RollBack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 0u8..5).prop_map(|(table, id)| Step::Ordinary(table, id)),
        2 => (0u8..4, 0u8..5).prop_map(|(table, id)| Step::ToOwner(table, id)),
        2 => (0u8..4, 0u8..5).prop_map(|(table, id)| Step::Sensitive(table, id)),
        1 => (0u8..4, 0u8..5).prop_map(|(table, id)| Step::WasSensitive(table, id)),
        1 => (0u8..5, 0u8..5).prop_map(|(old, new)| Step::Renamed(old, new)),
        1 => Just(Step::Begin),
        1 => Just(Step::Release),
        1 => Just(Step::RollBack),
    ]
}

/// Whether the ticket has a sensitive version, or had one if `is_ever`, by the simplest rule: follow
/// renames in both directions until nothing is added.
fn is_sensitive(steps: &[Step], table: u8, id: u8, is_ever: bool) -> bool {
    // Two partitions and a table without any.
    let root = |table: u8| table / 2;
    let mut same = vec![id];
    for _ in 0..steps.len() {
        for step in steps {
            // In the model all renames are in the first partition.
            if let Step::Renamed(old, new) = step
                && root(table) == 0
            {
                for (one, other) in [(old, new), (new, old)] {
                    if same.contains(one) && !same.contains(other) {
                        same.push(*other);
                    }
                }
            }
        }
    }
    steps.iter().any(|step| match step {
        Step::Sensitive(of, id) => root(*of) == root(table) && same.contains(id),
        Step::WasSensitive(of, id) => is_ever && root(*of) == root(table) && same.contains(id),
        _ => false,
    })
}

proptest! {
    #[test]
    fn only_events_of_tickets_with_a_sensitive_version_are_redacted(
        steps in prop::collection::vec(step(), 0..40)
    ) {
        let mut buffer = Buffer::default();
        let mut model: Vec<Vec<Step>> = vec![vec![]];
        for (number, step) in steps.into_iter().enumerate() {
            let level = model.len() as i32;
            let last = model.last_mut().unwrap();
            match step {
                Step::Begin => model.push(vec![]),
                Step::Release | Step::RollBack if level == 1 => {}
                Step::Release => {
                    buffer.release(level);
                    let steps = model.pop().unwrap();
                    model.last_mut().unwrap().extend(steps);
                }
                Step::RollBack => {
                    buffer.roll_back(level);
                    model.pop();
                }
                Step::Ordinary(table, id) => {
                    last.push(Step::Ordinary(table, id));
                    let flags = Flags::NOTIFY.with(Flags::ORDINARY);
                    let payload = written(&json!(id), &number.to_string());
                    buffer.push(level, flags, 1 + u32::from(table), b"ticket_updates:a", &payload).unwrap();
                }
                Step::ToOwner(table, id) => {
                    last.push(Step::ToOwner(table, id));
                    let flags = Flags::NOTIFY.with(Flags::ORDINARY).with(Flags::OWNER);
                    let payload = written(&json!(id), &number.to_string());
                    buffer.push(level, flags, 1 + u32::from(table), b"ticket_owner:u", &payload).unwrap();
                }
                Step::WasSensitive(table, id) => {
                    last.push(Step::WasSensitive(table, id));
                    buffer.push_was_sensitive(level, 1 + u32::from(table), &token(&json!(id)));
                }
                Step::Sensitive(table, id) => {
                    last.push(Step::Sensitive(table, id));
                    buffer.push_sensitive(level, 1 + u32::from(table), b"a", &token(&json!(id)));
                }
                Step::Renamed(old, new) => {
                    last.push(Step::Renamed(old, new));
                    buffer.push_renamed(level, 1, &token(&json!(old)), &token(&json!(new)));
                }
            }
        }
        let steps = model.concat();
        let root_of = |table: u32| 101 + (table - 1) / 2;
        settle(&mut buffer, 0, SensitiveEvents::Restricted, &root_of);
        let published: Vec<_> = published(&buffer).into_iter().map(|event| event.0).collect();
        let expected: Vec<_> = steps.iter().filter_map(|step| match step {
            Step::Ordinary(table, id) if is_sensitive(&steps, *table, *id, false) => Some("ticket_updates:a:sensitive"),
            Step::Ordinary(..) => Some("ticket_updates:a"),
            Step::ToOwner(table, id) => (!is_sensitive(&steps, *table, *id, true)).then_some("ticket_owner:u"),
            _ => None,
        }).collect();
        prop_assert_eq!(published, expected);
    }
}
