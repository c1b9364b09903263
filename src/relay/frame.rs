//! The form of a transaction's events in the queue, without PostgreSQL. Each event is the lengths
//! of channel and payload in two bytes each, then both texts, each followed by a NUL.

use std::borrow::Cow;
use std::collections::{HashMap, TryReserveError};
use std::ffi::CStr;

use crate::events::buffer::{Buffer, Flags, LENGTHS, Record};
use crate::pg::memory::may_fail;

/// The events to notify, in order. Of equal ones only the last: NOTIFY would keep the first, and a listener
/// of a ticket that has come, gone, come and gone would end with the ticket there.
///
/// Errors: not enough memory.
pub fn distinct(events: &Buffer) -> Result<impl Iterator<Item = Record<'_>>, TryReserveError> {
    let notified = || events.events_from(0, Flags::NOTIFY).filter(|event| event.event().is_some());
    let mut left: HashMap<&[u8], usize> = HashMap::new();
    if notified().nth(1).is_some() {
        for event in notified() {
            may_fail(|| left.try_reserve(1))?;
            *left.entry(event.frame).or_default() += 1;
        }
    }
    Ok(notified().filter(move |event| match left.get_mut(event.frame) {
        Some(count) => {
            *count -= 1;
            *count == 0
        }
        None => true,
    }))
}

/// The frame of the events to notify.
///
/// Errors: not enough memory.
pub fn folded(events: &Buffer) -> Result<Cow<'_, [u8]>, TryReserveError> {
    let mut notified = distinct(events)?.map(|event| event.frame);
    let Some(only) = notified.next() else { return Ok(Cow::Borrowed(&[])) };
    let Some(second) = notified.next() else { return Ok(Cow::Borrowed(only)) };
    let mut folded = Vec::new();
    may_fail(|| folded.try_reserve(events.len()))?;
    for event in [only, second].into_iter().chain(notified) {
        folded.extend_from_slice(event);
    }
    Ok(Cow::Owned(folded))
}

/// The events of a frame.
pub fn events(bytes: &[u8]) -> Events<'_> {
    Events { bytes }
}

pub struct Events<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Events<'a> {
    type Item = (&'a CStr, &'a CStr);

    fn next(&mut self) -> Option<Self::Item> {
        let (event, size) = first(self.bytes)?;
        self.bytes = &self.bytes[size..];
        Some(event)
    }
}

/// The first event, and its size.
fn first(bytes: &[u8]) -> Option<((&CStr, &CStr), usize)> {
    let length = |at: usize| {
        let length = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_ne_bytes(length)))
    };
    let payload = LENGTHS + length(0)? + 1;
    let end = payload + length(2)? + 1;
    let text = |range| CStr::from_bytes_with_nul(bytes.get(range)?).ok();
    Some(((text(LENGTHS..payload)?, text(payload..end)?), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(texts: &[(Flags, &str)]) -> Buffer {
        let mut buffer = Buffer::default();
        for (flags, text) in texts {
            buffer.push(1, *flags, 7, b"channel", text.as_bytes()).unwrap();
            buffer.push_sensitive(1, 7, b"t", b"\"1\"");
        }
        buffer
    }

    fn texts(buffer: &Buffer) -> Vec<String> {
        let folded = folded(buffer).unwrap();
        events(&folded).map(|(_, payload)| payload.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_frame_has_each_notified_event_once_in_order() {
        let (notified, stored) = (Flags::NOTIFY.with(Flags::HAS_ROOM), Flags::REALTIME);
        assert_eq!(texts(&buffer(&[])), [""; 0]);
        assert_eq!(texts(&buffer(&[(stored, "a")])), [""; 0]);
        assert_eq!(texts(&buffer(&[(notified, "a"), (stored, "b")])), ["a"]);
        let events = ["a", "", "b", "a", "c"].map(|text| (notified, text));
        assert_eq!(texts(&buffer(&events)), ["", "b", "a", "c"]);
        let events = ["gone", "come", "gone"].map(|text| (notified, text));
        assert_eq!(texts(&buffer(&events)), ["come", "gone"]);
    }
}
