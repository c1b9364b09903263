//! The form of a transaction's events in the queue, without PostgreSQL. Each event is the lengths
//! of channel and payload in two bytes each, then both texts, each followed by a NUL.

use std::borrow::Cow;
use std::collections::{HashSet, TryReserveError};
use std::ffi::CStr;
use std::hash::{BuildHasher, RandomState};

use crate::events::buffer::{Buffer, Flags, LENGTHS, Record};
use crate::pg::memory::may_fail;

/// The events to notify, in order. Of equal ones only the last: NOTIFY would keep the first, and a listener
/// of a ticket that has come, gone, come and gone would end with the ticket there.
///
/// Errors: not enough memory.
pub fn distinct(events: &Buffer) -> Result<impl Iterator<Item = Record<'_>>, TryReserveError> {
    let notified = || events.events_from(0, Flags::NOTIFY).filter(|event| event.event().is_some());
    let frames = notified().map(|event| event.frame);
    let mut is_repeated = repeated(notified().count(), frames)?.into_iter();
    Ok(notified().filter(move |_| !is_repeated.next().unwrap_or(false)))
}

/// Of each text whether an equal one follows; nothing if none is repeated. The texts are hashed once and
/// compared only where hashes are equal, because there may be a million of them.
fn repeated<'a>(
    count: usize,
    texts: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<bool>, TryReserveError> {
    let (mut hashes, mut repeated) = (Vec::new(), Vec::new());
    if count < 2 {
        return Ok(repeated);
    }
    may_fail(|| hashes.try_reserve_exact(count))?;
    let state = RandomState::new();
    hashes.extend(texts.enumerate().map(|(place, text)| (state.hash_one(text), place, text)));
    hashes.sort_unstable_by_key(|(hash, place, _)| (*hash, *place));
    for same in hashes.chunk_by(|one, next| one.0 == next.0).filter(|same| same.len() > 1) {
        let mut last = HashSet::new();
        may_fail(|| last.try_reserve(same.len()))?;
        for (_, place, text) in same.iter().rev() {
            if !last.insert(text) {
                if repeated.is_empty() {
                    may_fail(|| repeated.try_reserve_exact(count))?;
                    repeated.resize(count, false);
                }
                repeated[*place] = true;
            }
        }
    }
    Ok(repeated)
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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn of_equal_texts_all_but_the_last_are_repeated(texts in prop::collection::vec("[ab]{0,3}", 0..40)) {
            let repeated = repeated(texts.len(), texts.iter().map(String::as_bytes)).unwrap();
            for (place, text) in texts.iter().enumerate() {
                let follows = texts[place + 1..].contains(text);
                prop_assert_eq!(repeated.get(place).copied().unwrap_or(false), follows);
            }
        }
    }
}
