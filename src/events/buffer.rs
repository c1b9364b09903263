//! The events of the current transaction, without PostgreSQL.
//!
//! Events are published at the end of the transaction, because only then is it known which tickets
//! are sensitive. Until then one log keeps them in order, together with the records that decide it:
//! which tickets had a sensitive version, and which changed their id.

use super::bulk::{Bulk, Change};
pub use super::record::{Flags, LENGTHS, Record, Records, Rewritten, Unrecorded};
use super::record::{HEADER, TABLE, append, first, fits, known_id};
use crate::pg::memory::may_fail;

/// The most bytes that stay allocated for the next transaction.
const KEPT: usize = 64 * 1024;

/// The log. Rolling back a savepoint removes its records.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// The subtransaction levels that have records, in ascending order.
    levels: Vec<Level>,
    /// Number of recorded sensitive versions, also of those that were replaced.
    sensitive: usize,
    /// Bytes of the events for NOTIFY.
    notified: usize,
    /// The flags of all events that were ever added.
    flags: Flags,
    /// A sensitive version could not be recorded, so any ticket may be sensitive.
    is_blind: bool,
    /// Changes that are counted, and how many are listed.
    bulk: Bulk,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    number: i32,
    /// Position of its first record.
    start: usize,
    /// Number of sensitive versions recorded before it, and bytes of events for NOTIFY.
    sensitive: usize,
    notified: usize,
    /// Number of changes before it, listed or counted.
    changes: usize,
}

impl Buffer {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.is_blind && self.bulk.counted() == 0
    }

    /// Size in bytes, which is also the position after the last record.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the events for NOTIFY, about as many as they take in the relay's queue.
    pub fn notified(&self) -> usize {
        self.notified
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        // A transaction with many events must not hold its memory for the rest of the session.
        self.bytes.shrink_to(KEPT);
        self.levels.clear();
        (self.sensitive, self.notified) = (0, 0);
        (self.flags, self.is_blind) = (Flags::default(), false);
        self.bulk.clear();
    }

    /// Adds an event of a subtransaction of this level.
    ///
    /// Errors: the log stays as it was.
    pub fn push(
        &mut self,
        level: i32,
        flags: Flags,
        table: u32,
        channel: &[u8],
        payload: &[u8],
    ) -> Result<(), Unrecorded> {
        self.add(level, flags, table, channel, payload)?;
        self.flags = self.flags.with(flags);
        if flags.has(Flags::NOTIFY) {
            self.notified += HEADER + channel.len() + payload.len() + 2;
        }
        Ok(())
    }

    /// Records that a ticket had a sensitive version. An empty municipality means any. Without
    /// memory for the record, every ticket of the transaction counts as sensitive.
    pub fn push_sensitive(&mut self, level: i32, table: u32, municipality: &[u8], id: &[u8]) {
        let is_known = fits(municipality) && fits(id);
        let municipality = if is_known { municipality } else { b"" };
        self.count_sensitive(level, Flags::SENSITIVE, table, municipality, id);
    }

    /// Records that a ticket was sensitive before the transaction changed it.
    pub fn push_was_sensitive(&mut self, level: i32, table: u32, id: &[u8]) {
        self.count_sensitive(level, Flags::WAS_SENSITIVE, table, b"", id);
    }

    fn count_sensitive(
        &mut self,
        level: i32,
        kind: Flags,
        table: u32,
        municipality: &[u8],
        id: &[u8],
    ) {
        match self.add(level, kind, table, municipality, known_id(id)) {
            Ok(()) => self.sensitive += 1,
            Err(_) => self.is_blind = true,
        }
    }

    /// Records that a ticket has a new id.
    pub fn push_renamed(&mut self, level: i32, table: u32, old: &[u8], new: &[u8]) {
        let (old, new) = (known_id(old), known_id(new));
        self.is_blind |= self.add(level, Flags::RENAMED, table, old, new).is_err();
    }

    fn add(
        &mut self,
        level: i32,
        flags: Flags,
        table: u32,
        first: &[u8],
        second: &[u8],
    ) -> Result<(), Unrecorded> {
        if !fits(first) || !fits(second) {
            return Err(Unrecorded);
        }
        may_fail(|| self.bytes.try_reserve(HEADER + first.len() + second.len() + 2))?;
        self.enter(level)?;
        append(&mut self.bytes, flags, table, first, second);
        Ok(())
    }

    fn enter(&mut self, level: i32) -> Result<(), Unrecorded> {
        if self.levels.last().is_none_or(|last| last.number < level) {
            may_fail(|| self.levels.try_reserve(1))?;
            let (start, sensitive, notified) = (self.bytes.len(), self.sensitive, self.notified);
            let changes = self.bulk.len();
            self.levels.push(Level { number: level, start, sensitive, notified, changes });
        }
        Ok(())
    }

    /// Whether so many changes of the municipality's ordinary tickets, or of its sensitive ones, are listed that
    /// further ones are counted.
    pub fn is_bulk(&mut self, municipality: &[u8], is_sensitive: bool, after: usize) -> bool {
        self.bulk.is_reached(municipality, is_sensitive, after)
    }

    /// Records that a change of the municipality is listed.
    pub fn list(
        &mut self,
        level: i32,
        municipality: &[u8],
        is_sensitive: bool,
    ) -> Result<(), Unrecorded> {
        self.enter(level)?;
        self.bulk.list(municipality, is_sensitive)
    }

    /// Counts a change.
    pub fn count(&mut self, level: i32, change: Change<'_>) -> Result<(), Unrecorded> {
        self.enter(level)?;
        self.bulk.count(change)?;
        self.flags = self.flags.with(change.flags);
        Ok(())
    }

    pub fn bulk(&self) -> &Bulk {
        &self.bulk
    }

    /// Takes the counted changes for a moment.
    pub fn take_bulk(&mut self) -> Bulk {
        std::mem::take(&mut self.bulk)
    }

    pub fn put_bulk(&mut self, bulk: Bulk) {
        self.bulk = bulk;
    }

    /// A subtransaction was rolled back, together with all below it.
    pub fn roll_back(&mut self, level: i32) {
        while let Some(last) = self.levels.pop_if(|last| last.number >= level) {
            self.bytes.truncate(last.start);
            (self.sensitive, self.notified) = (last.sensitive, last.notified);
            self.bulk.truncate(last.changes);
        }
    }

    /// A subtransaction was released: its records now belong to its parent.
    pub fn release(&mut self, level: i32) {
        let Some(last) = self.levels.pop() else { return };
        let number = if last.number >= level { level - 1 } else { last.number };
        if self.levels.last().is_none_or(|parent| parent.number < number) {
            self.levels.push(Level { number, ..last });
        }
    }

    /// Appends the records of another log, at the level of the transaction itself.
    ///
    /// Errors: the other's events are lost, and all tickets count as sensitive.
    pub fn append(&mut self, other: &Buffer) -> Result<(), Unrecorded> {
        self.is_blind |= other.is_blind;
        if may_fail(|| self.bytes.try_reserve(other.bytes.len())).is_err()
            || self.enter(1).is_err()
            || self.bulk.append(&other.bulk).is_err()
        {
            self.is_blind = true;
            return Err(Unrecorded);
        }
        self.bytes.extend_from_slice(&other.bytes);
        self.sensitive += other.sensitive;
        self.notified += other.notified;
        self.flags = self.flags.with(other.flags);
        Ok(())
    }

    /// Number of recorded sensitive versions; `None` if any ticket may be sensitive.
    pub fn sensitive_versions(&self) -> Option<usize> {
        (!self.is_blind).then_some(self.sensitive)
    }

    /// Whether there may be an event with one of these flags. A cheap check: events that were
    /// rolled back count too.
    pub fn may_have(&self, flags: Flags) -> bool {
        self.flags.has_any(flags)
    }

    /// The records from a position on.
    pub fn records_from(&self, start: usize) -> Records<'_> {
        Records { bytes: self.bytes.get(start..).unwrap_or_default() }
    }

    pub fn records(&self) -> Records<'_> {
        self.records_from(0)
    }

    /// The events with this flag, from a position on.
    pub fn events_from(&self, start: usize, flag: Flags) -> impl Iterator<Item = Record<'_>> {
        let is_wanted = move |flags: Flags| flags.is_event() && flags.has(flag);
        self.records_from(start).filter(move |record| is_wanted(record.flags))
    }

    /// Replaces the records from a position on.
    pub fn replace_from(&mut self, start: usize, records: &Rewritten) -> Result<(), Unrecorded> {
        let missing = records.bytes.len().saturating_sub(self.bytes.len() - start);
        may_fail(|| self.bytes.try_reserve(missing))?;
        self.bytes.truncate(start);
        self.bytes.extend_from_slice(&records.bytes);
        Ok(())
    }

    /// Appends records of the transaction itself, which is about to end.
    pub fn extend(&mut self, records: &Rewritten) -> Result<(), Unrecorded> {
        self.replace_from(self.bytes.len(), records)
    }

    /// Gives each event, from a position on, the destinations that `decide` says.
    pub fn redirect(&mut self, start: usize, mut decide: impl FnMut(&Record<'_>) -> Flags) {
        let mut place = start;
        while let Some((record, size)) = first(self.bytes.get(place..).unwrap_or_default()) {
            if record.flags.is_event() {
                let bytes = decide(&record).to_bytes();
                self.bytes[place..place + TABLE].copy_from_slice(&bytes);
            }
            place += size;
        }
    }

    /// Removes every destination from the events that `is_withheld` selects.
    pub fn withhold(&mut self, start: usize, is_withheld: impl Fn(Flags) -> bool) -> usize {
        let (mut place, mut count) = (start, 0);
        while let Some((record, size)) = first(self.bytes.get(place..).unwrap_or_default()) {
            let flags = record.flags;
            if flags.is_event() && flags != Flags::default() && is_withheld(flags) {
                count += 1;
                self.bytes[place..place + TABLE].fill(0);
            }
            place += size;
        }
        count
    }
}

#[cfg(test)]
mod tests;
