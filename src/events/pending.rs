//! The events of the current transaction, which wait for its end.

use std::cell::RefCell;

use super::EventError;
use super::buffer::{Buffer, Flags};
use super::bulk::Change;
use super::settle;
use crate::{pg, settings};

thread_local! {
    static EVENTS: RefCell<Buffer> = RefCell::default();
}

/// The number of bytes that wait for NOTIFY.
pub fn notified() -> usize {
    EVENTS.with_borrow(Buffer::notified)
}

/// Errors: there is not enough memory.
pub fn push(flags: Flags, table: u32, channel: &[u8], payload: &[u8]) -> Result<(), EventError> {
    let level = pg::transaction::level();
    EVENTS
        .with_borrow_mut(|events| events.push(level, flags, table, channel, payload))
        .map_err(|_| EventError::NoMemory)
}

/// Whether this transaction has listed so many changes of the municipality's ordinary tickets, or of its
/// sensitive ones, that further ones are counted.
pub fn is_bulk(municipality_id: &str, is_sensitive: bool, after: usize) -> bool {
    EVENTS.with_borrow_mut(|events| events.is_bulk(municipality_id.as_bytes(), is_sensitive, after))
}

/// Records that a change is listed. Without memory for that, counting begins later.
pub fn note_listed(municipality_id: &str, is_sensitive: bool) {
    let level = pg::transaction::level();
    EVENTS.with_borrow_mut(|events| {
        _ = events.list(level, municipality_id.as_bytes(), is_sensitive);
    });
}

/// Errors: there is not enough memory.
pub fn count(change: Change<'_>) -> Result<(), EventError> {
    let level = pg::transaction::level();
    EVENTS.with_borrow_mut(|events| events.count(level, change)).map_err(|_| EventError::NoMemory)
}

/// Takes all of them. Whatever is published afterwards gathers anew.
pub fn take() -> Buffer {
    EVENTS.take()
}

pub fn clear() {
    EVENTS.with_borrow_mut(Buffer::clear);
}

/// A subtransaction has ended; its events are of the one around it.
pub fn release(level: i32) {
    EVENTS.with_borrow_mut(|events| events.release(level));
}

/// A subtransaction was rolled back, and its events with it.
pub fn roll_back(level: i32) {
    EVENTS.with_borrow_mut(|events| events.roll_back(level));
}

/// Puts a buffer in the place of what waits.
pub fn put_back(events: Buffer) {
    EVENTS.set(events);
}

/// Records that a ticket has a sensitive version in this transaction. The id is JSON; an empty
/// municipality means any.
pub fn note_sensitive(table: u32, municipality_id: &str, id: &[u8]) {
    let level = pg::transaction::level();
    EVENTS.with_borrow_mut(|events| {
        events.push_sensitive(level, table, municipality_id.as_bytes(), id);
    });
}

/// Records that a ticket was sensitive before this transaction changed it. The id is JSON.
pub fn note_was_sensitive(table: u32, id: &[u8]) {
    let level = pg::transaction::level();
    EVENTS.with_borrow_mut(|events| events.push_was_sensitive(level, table, id));
}

/// Records that a ticket's id was changed in this transaction. Both ids are JSON.
pub fn note_renamed(table: u32, old: &[u8], new: &[u8]) {
    let level = pg::transaction::level();
    EVENTS.with_borrow_mut(|events| events.push_renamed(level, table, old, new));
}

/// How many sensitive versions were recorded since the events were taken; `None` if unknown.
pub fn sensitive_versions() -> Option<usize> {
    EVENTS.with_borrow(Buffer::sensitive_versions)
}

/// Whether code that ran since the events were taken made a ticket sensitive that has an ordinary
/// event among them, or shows that one with an event to its owner was.
pub fn is_overtaken(taken: &Buffer) -> bool {
    // Reads the catalog, so the buffer must not stay borrowed.
    let late = Late(EVENTS.take());
    settle::would_change(taken, &late.0, settings::sensitive_events(), &pg::table::root)
}

/// Puts the events back on drop, also while an error unwinds.
struct Late(Buffer);

impl Drop for Late {
    fn drop(&mut self) {
        EVENTS.set(std::mem::take(&mut self.0));
    }
}
