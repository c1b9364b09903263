//! The events of the current transaction, without PostgreSQL.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::CStr;

/// Events that wait for the transaction's end, each with the level of subtransaction that sent it:
/// a savepoint that is rolled back takes its events along.
#[derive(Debug, Default)]
pub struct Pending {
    bytes: Vec<u8>,
    /// The levels that have events, in rising order, and where each one's events begin.
    levels: Vec<(i32, usize)>,
}

/// What stands before an event: lengths of channel and payload, without the NUL behind each.
const LENGTHS: usize = 4;

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        // A transaction of many events must not hold its memory for the rest of the session.
        self.bytes.shrink_to(64 * 1024);
        self.levels.clear();
    }

    /// Takes an event that a subtransaction of this level sent. NOTIFY's limits hold for both
    /// texts, so two bytes hold each length.
    pub fn push(&mut self, level: i32, channel: &CStr, payload: &CStr) {
        if self.levels.last().is_none_or(|(last, _)| *last < level) {
            self.levels.push((level, self.bytes.len()));
        }
        for text in [channel, payload] {
            self.bytes.extend_from_slice(&(text.count_bytes() as u16).to_ne_bytes());
        }
        self.bytes.extend_from_slice(channel.to_bytes_with_nul());
        self.bytes.extend_from_slice(payload.to_bytes_with_nul());
    }

    /// A subtransaction has been rolled back, with all below it.
    pub fn roll_back(&mut self, level: i32) {
        while let Some((_, start)) = self.levels.pop_if(|(last, _)| *last >= level) {
            self.bytes.truncate(start);
        }
    }

    /// A subtransaction has ended well: its events are its parent's.
    pub fn release(&mut self, level: i32) {
        let Some((last, start)) = self.levels.pop() else { return };
        let level = if last >= level { level - 1 } else { last };
        if self.levels.last().is_none_or(|(last, _)| *last < level) {
            self.levels.push((level, start));
        }
    }

    /// Whether every event was sent by this very level.
    pub fn is_all_of(&self, level: i32) -> bool {
        self.levels.iter().all(|(own, _)| *own == level)
    }

    pub fn events(&self) -> Events<'_> {
        events(&self.bytes)
    }

    /// The events as the queue carries them. A repeated one is left out, as NOTIFY does within a
    /// transaction.
    pub fn folded(&self) -> Cow<'_, [u8]> {
        if first(&self.bytes).is_some_and(|(_, size)| size == self.bytes.len()) {
            return Cow::Borrowed(&self.bytes);
        }
        let mut seen = HashSet::new();
        let mut folded = Vec::with_capacity(self.bytes.len());
        let mut rest = self.bytes.as_slice();
        while let Some((_, size)) = first(rest) {
            let (event, behind) = rest.split_at(size);
            if seen.insert(event) {
                folded.extend_from_slice(event);
            }
            rest = behind;
        }
        Cow::Owned(folded)
    }
}

/// The events in a frame of the queue.
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
    use proptest::prelude::*;
    use std::ffi::CString;

    fn push(pending: &mut Pending, level: i32, text: &str) {
        pending.push(level, c"channel", &CString::new(text).unwrap());
    }

    fn told(events: Events<'_>) -> Vec<String> {
        events.map(|(_, payload)| payload.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn events_come_out_in_their_order() {
        let mut pending = Pending::default();
        push(&mut pending, 1, "a");
        push(&mut pending, 1, "");
        push(&mut pending, 2, "b");
        assert_eq!(told(pending.events()), ["a", "", "b"]);
    }

    #[test]
    fn a_savepoint_that_is_rolled_back_takes_its_events_along() {
        let mut pending = Pending::default();
        push(&mut pending, 1, "a");
        push(&mut pending, 2, "b");
        push(&mut pending, 3, "c");
        pending.release(3);
        pending.roll_back(2);
        push(&mut pending, 1, "d");
        assert_eq!(told(pending.events()), ["a", "d"]);
    }

    #[test]
    fn a_savepoint_that_is_released_leaves_its_events_to_its_parent() {
        let mut pending = Pending::default();
        push(&mut pending, 3, "c");
        assert!(pending.is_all_of(3));
        pending.release(3);
        assert!(pending.is_all_of(2));
        pending.roll_back(3);
        assert_eq!(told(pending.events()), ["c"]);
        pending.roll_back(2);
        assert!(pending.is_empty());
    }

    #[test]
    fn an_event_that_is_repeated_in_a_transaction_is_told_once() {
        let mut pending = Pending::default();
        for text in ["a", "b", "a"] {
            push(&mut pending, 1, text);
        }
        assert_eq!(told(events(&pending.folded())), ["a", "b"]);
    }

    proptest! {
        /// Against a model: a stack of lists, one a level.
        #[test]
        fn it_behaves_as_a_stack_of_levels(steps in prop::collection::vec((0u8..5, "[a-c]{0,3}"), 0..60)) {
            let mut pending = Pending::default();
            let mut model: Vec<Vec<String>> = vec![vec![]];
            for (what, text) in steps {
                let level = model.len() as i32;
                match what {
                    0 => model.push(vec![]),
                    1 if level > 1 => {
                        let events = model.pop().unwrap();
                        model.last_mut().unwrap().extend(events);
                        pending.release(level);
                    }
                    2 if level > 1 => {
                        model.pop();
                        pending.roll_back(level);
                    }
                    _ => {
                        model.last_mut().unwrap().push(text.clone());
                        push(&mut pending, level, &text);
                    }
                }
            }
            prop_assert_eq!(told(pending.events()), model.concat());
        }
    }
}
