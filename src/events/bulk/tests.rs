//! Tests of counting, by example.

use super::*;
use serde_json::{Value, json};

fn change<'a>(municipality: &'a str, operation: Operation, id: &'a str) -> Change<'a> {
    Change {
        municipality: municipality.as_bytes(),
        table: 7,
        flags: Flags::NOTIFY,
        sensitive: None,
        operation,
        id: id.as_bytes(),
    }
}

/// Municipality and number of changes of each group.
fn counted(bulk: &Bulk) -> Vec<(&str, Counts)> {
    let municipality = |group| std::str::from_utf8(bulk.municipality_of(group)).unwrap();
    bulk.groups().iter().map(municipality).zip(bulk.counts(0).unwrap()).collect()
}

#[test]
fn each_municipality_has_its_own_threshold() {
    let mut bulk = Bulk::default();
    for municipality in [b"a", b"b", b"a", b"a"] {
        bulk.list(municipality, false).unwrap();
    }
    assert!(bulk.is_reached(b"a", false, 3) && !bulk.is_reached(b"a", false, 4));
    assert!(bulk.is_reached(b"b", false, 1) && !bulk.is_reached(b"b", false, 2));
    assert!(!bulk.is_reached(b"c", false, 1));
    assert!(!bulk.is_reached(b"a", true, 1), "sensitive changes have their own");
    bulk.list(b"a", true).unwrap();
    assert!(bulk.is_reached(b"a", true, 1) && !bulk.is_reached(b"a", false, 4));
    assert_eq!(bulk.counted(), 0);
}

#[test]
fn what_is_truncated_is_neither_listed_nor_counted() {
    let mut bulk = Bulk::default();
    bulk.list(b"a", false).unwrap();
    bulk.count(change("a", Operation::Insert, "1")).unwrap();
    let length = bulk.len();
    bulk.list(b"a", false).unwrap();
    bulk.count(change("a", Operation::Update, "1")).unwrap();
    bulk.count(change("b", Operation::Delete, "2")).unwrap();
    assert_eq!(counted(&bulk), [("a", [1, 1, 0]), ("b", [0, 0, 1])]);
    bulk.truncate(length);
    assert_eq!(counted(&bulk), [("a", [1, 0, 0]), ("b", [0, 0, 0])]);
    assert!(bulk.is_reached(b"a", false, 1) && !bulk.is_reached(b"a", false, 2));
    assert_eq!((bulk.len(), bulk.counted()), (2, 1));
}

#[test]
fn the_changes_of_another_one_are_appended_to_their_own_groups() {
    let (mut bulk, mut other) = (Bulk::default(), Bulk::default());
    bulk.count(change("a", Operation::Insert, "1")).unwrap();
    other.list(b"c", false).unwrap();
    other.count(change("b", Operation::Insert, "1")).unwrap();
    other.count(change("a", Operation::Delete, "1")).unwrap();
    bulk.append(&other).unwrap();
    assert_eq!(counted(&bulk), [("a", [1, 0, 1]), ("b", [1, 0, 0])]);
    assert_eq!(bulk.counted(), 3);
    bulk.clear();
    assert_eq!((bulk.len(), bulk.counted()), (0, 0));
}

#[test]
fn the_event_says_how_many_of_each_operation() {
    let mut out = vec![];
    write(&mut out, "a\"ë".as_bytes(), true, &[1, 22, 0], 1_500_000);
    let text = "{\"type\":\"BULK\",\"municipality_id\":\"a\\\"ë\",\"is_sensitive\":true,\
                \"insert\":1,\"update\":22,\"delete\":0,\"updated_at\":1.500000}";
    assert_eq!(String::from_utf8(out.clone()).unwrap(), text);
    let value: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value["municipality_id"], json!("a\"ë"));
}
