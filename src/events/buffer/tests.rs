//! Tests of the log, by example and against a model.

use super::*;
use crate::events::payload::NO_ID;
use proptest::prelude::*;

fn push(buffer: &mut Buffer, level: i32, text: &str) {
    buffer.push(level, Flags::NOTIFY, 7, b"channel", text.as_bytes()).unwrap();
}

fn texts(buffer: &Buffer) -> Vec<String> {
    let text = |record: Record<'_>| String::from_utf8(record.payload().to_vec()).unwrap();
    buffer.records().map(text).collect()
}

#[test]
fn records_are_read_as_they_were_written() {
    let mut buffer = Buffer::default();
    push(&mut buffer, 1, "a");
    buffer.push_sensitive(1, 9, b"municipality", b"\"7\"");
    buffer.push_renamed(2, 9, b"\"7\"", b"\"8\"");
    push(&mut buffer, 2, "");
    let records: Vec<_> = buffer.records().collect();
    assert_eq!(records[0].event(), Some((c"channel", c"a")));
    assert_eq!((records[0].table, records[1].table), (7, 9));
    assert_eq!(records[1].sensitive(), Some((&b"municipality"[..], &b"\"7\""[..])));
    assert_eq!(records[2].renamed(), Some((&b"\"7\""[..], &b"\"8\""[..])));
    assert_eq!((records[1].event(), records[2].event()), (None, None));
    assert_eq!(records[3].event(), Some((c"channel", c"")));
    assert_eq!(buffer.events_from(0, Flags::NOTIFY).count(), 2);
    assert_eq!(buffer.events_from(0, Flags::REALTIME).count(), 0);
    assert_eq!(buffer.sensitive_versions(), Some(1));
}

#[test]
fn a_text_with_a_nul_is_not_an_event_and_hides_no_other() {
    let mut buffer = Buffer::default();
    push(&mut buffer, 1, "a\0b");
    push(&mut buffer, 1, "c");
    let events: Vec<_> = buffer.records().map(|record| record.event()).collect();
    assert_eq!(events, [None, Some((c"channel", c"c"))]);
}

#[test]
fn a_withheld_event_has_no_destination() {
    let mut buffer = Buffer::default();
    push(&mut buffer, 1, "a");
    buffer.push(1, Flags::NOTIFY.with(Flags::ORDINARY), 7, b"channel", b"b").unwrap();
    assert_eq!(buffer.withhold(0, |flags| flags.has(Flags::ORDINARY)), 1);
    assert_eq!(buffer.events_from(0, Flags::NOTIFY).count(), 1);
    assert_eq!(texts(&buffer), ["a", "b"]);
}

#[test]
fn another_log_is_appended() {
    let (mut one, mut other) = (Buffer::default(), Buffer::default());
    push(&mut other, 1, "b");
    other.push_sensitive(1, 7, b"t", b"\"7\"");
    push(&mut one, 1, "a");
    one.append(&other).unwrap();
    assert_eq!(texts(&one), ["a", "b", "\"7\""]);
    assert_eq!(one.sensitive_versions(), Some(1));
}

/// The relay takes a transaction by the size of what it would notify.
#[test]
fn what_is_not_for_notify_takes_no_room_in_the_queue() {
    let mut buffer = Buffer::default();
    push(&mut buffer, 1, "a");
    let size = buffer.notified();
    assert_eq!(size, buffer.len());
    buffer.push(1, Flags::REALTIME.with(Flags::OWNER), 7, b"channel", b"a").unwrap();
    buffer.push_sensitive(1, 7, b"t", b"\"7\"");
    assert_eq!(buffer.notified(), size);
    push(&mut buffer, 2, "b");
    push(&mut buffer, 3, "c");
    buffer.release(3);
    assert_eq!(buffer.notified(), 3 * size);
    buffer.roll_back(2);
    assert_eq!(buffer.notified(), size);
    let mut all = Buffer::default();
    push(&mut all, 1, "d");
    all.append(&buffer).unwrap();
    assert_eq!(all.notified(), 2 * size);
    all.clear();
    assert_eq!(all.notified(), 0);
}

proptest! {
    /// Compares with a model: a stack of lists, one per level. A text that begins with `s` is a
    /// sensitive version.
    #[test]
    fn the_log_behaves_like_a_stack_of_levels(steps in prop::collection::vec((0u8..5, "[as][a-c]{0,2}"), 0..60)) {
        let mut buffer = Buffer::default();
        let mut model: Vec<Vec<String>> = vec![vec![]];
        for (what, text) in steps {
            let level = model.len() as i32;
            match what {
                0 => model.push(vec![]),
                1 if level > 1 => {
                    let records = model.pop().unwrap();
                    model.last_mut().unwrap().extend(records);
                    buffer.release(level);
                }
                2 if level > 1 => {
                    model.pop();
                    buffer.roll_back(level);
                }
                _ => {
                    model.last_mut().unwrap().push(text.clone());
                    if text.starts_with('s') {
                        buffer.push_sensitive(level, 7, b"t", text.as_bytes());
                    } else {
                        push(&mut buffer, level, &text);
                    }
                }
            }
            let model = model.concat();
            let sensitive = model.iter().filter(|text| text.starts_with('s')).count();
            prop_assert_eq!(buffer.sensitive_versions(), Some(sensitive));
            prop_assert_eq!(texts(&buffer), model);
        }
    }
}

#[test]
fn texts_too_long_for_a_record_count_as_unknown() {
    let mut buffer = Buffer::default();
    let long = vec![b'x'; 70_000];
    buffer.push_sensitive(1, 7, &long, &long);
    buffer.push_sensitive(1, 7, &long, b"\"7\"");
    buffer.push_renamed(1, 7, &long, b"\"7\"");
    push(&mut buffer, 1, "a");
    assert!(buffer.push(1, Flags::NOTIFY, 7, b"channel", &long).is_err());
    let records: Vec<_> = buffer.records().collect();
    assert_eq!(records[0].sensitive(), Some((&b""[..], NO_ID)));
    assert_eq!(records[1].sensitive(), Some((&b""[..], &b"\"7\""[..])));
    assert_eq!(records[2].renamed(), Some((NO_ID, &b"\"7\""[..])));
    assert_eq!(records[3].event(), Some((c"channel", c"a")));
    assert_eq!(records.len(), 4);
}
