//! Changes of tickets that are counted because the transaction has listed enough of their municipality
//! (`civic.bulk_after`), without PostgreSQL.
//!
//! A counted change takes 16 bytes: its group, its operation and a hash of the ticket's id. The hash is needed
//! at the end of the transaction, when it is known which tickets are sensitive. Two ids with one hash can
//! only make an ordinary change count as sensitive.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use super::payload::{self, Operation, write_seconds, write_string};
use super::record::{Flags, Unrecorded};
use crate::pg::memory::may_fail;
use crate::settings::SensitiveEvents;

/// What the changes that are counted together have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Index of the municipality.
    municipality: usize,
    /// OID of the ticket's table.
    pub table: u32,
    /// Destinations.
    pub flags: Flags,
    /// For sensitive versions `civic.sensitive_events` as it was then; `None` for ordinary ones.
    pub sensitive: Option<SensitiveEvents>,
}

/// How many of each [`Operation`].
pub type Counts = [u64; 3];

/// One change to be counted.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub municipality: &'a [u8],
    pub table: u32,
    pub flags: Flags,
    pub sensitive: Option<SensitiveEvents>,
    pub operation: Operation,
    /// The ticket's id, as JSON.
    pub id: &'a [u8],
}

/// One change, listed or counted.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The index of the municipality if the change is listed, of the group if it is counted.
    place: u32,
    /// `None` if the change is listed.
    operation: Option<Operation>,
    /// The hash of the ticket's id, or whether what is listed is sensitive.
    id: u64,
}

#[derive(Debug)]
struct Municipality {
    id: Box<[u8]>,
    /// Changes of ordinary and of sensitive versions. Apart, because from the number of listed ordinary ones
    /// nobody must learn how many others there are.
    listed: [usize; 2],
    /// Indexes of its groups.
    groups: Vec<u32>,
}

/// The changes of a transaction.
#[derive(Debug, Default)]
pub struct Bulk {
    municipalities: Vec<Municipality>,
    index: HashMap<Box<[u8]>, usize>,
    /// The municipality that was looked up last.
    last: usize,
    groups: Vec<Group>,
    entries: Vec<Entry>,
    counted: usize,
}

/// The most entries that stay allocated for the next transaction.
const KEPT: usize = 1024;

/// The hash of a ticket's id. Its key is secret, so that nobody can choose ids of one hash.
pub fn hash(id: &[u8]) -> u64 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    KEY.get_or_init(RandomState::new).hash_one(id)
}

impl Bulk {
    /// Number of changes, which is also the position after the last one.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn counted(&self) -> usize {
        self.counted
    }

    pub fn clear(&mut self) {
        self.municipalities.clear();
        self.index.clear();
        self.groups.clear();
        self.entries.clear();
        self.entries.shrink_to(KEPT);
        (self.last, self.counted) = (0, 0);
    }

    /// Whether so many changes of the municipality's ordinary tickets, or of its sensitive ones, are listed that
    /// further ones are counted.
    pub fn is_reached(&mut self, municipality: &[u8], is_sensitive: bool, after: usize) -> bool {
        let place = self.find(municipality);
        place.is_some_and(|it| self.municipalities[it].listed[usize::from(is_sensitive)] >= after)
    }

    /// Records that a change is listed.
    pub fn list(&mut self, municipality: &[u8], is_sensitive: bool) -> Result<(), Unrecorded> {
        let place = self.municipality(municipality)?;
        may_fail(|| self.entries.try_reserve(1))?;
        self.municipalities[place].listed[usize::from(is_sensitive)] += 1;
        self.entries.push(Entry { place: place as u32, operation: None, id: is_sensitive.into() });
        Ok(())
    }

    pub fn count(&mut self, change: Change<'_>) -> Result<(), Unrecorded> {
        let Change { municipality, table, flags, sensitive, operation, id } = change;
        let municipality = self.municipality(municipality)?;
        let place = self.group(Group { municipality, table, flags, sensitive })?;
        may_fail(|| self.entries.try_reserve(1))?;
        self.entries.push(Entry { place, operation: Some(operation), id: hash(id) });
        self.counted += 1;
        Ok(())
    }

    /// Removes the changes from a position on.
    pub fn truncate(&mut self, length: usize) {
        for entry in self.entries.drain(length.min(self.entries.len())..) {
            match entry.operation {
                None => {
                    self.municipalities[entry.place as usize].listed[entry.id as usize] -= 1;
                }
                Some(_) => self.counted -= 1,
            }
        }
    }

    /// Appends the counted changes of another one.
    pub fn append(&mut self, other: &Bulk) -> Result<(), Unrecorded> {
        may_fail(|| self.entries.try_reserve(other.counted))?;
        let mut places = vec![];
        may_fail(|| places.try_reserve(other.groups.len()))?;
        for group in &other.groups {
            let municipality = self.municipality(other.municipality_of(group))?;
            places.push(self.group(Group { municipality, ..*group })?);
        }
        for entry in other.entries.iter().filter(|entry| entry.operation.is_some()) {
            self.entries.push(Entry { place: places[entry.place as usize], ..*entry });
            self.counted += 1;
        }
        Ok(())
    }

    pub fn municipality_of(&self, group: &Group) -> &[u8] {
        &self.municipalities[group.municipality].id
    }

    /// The groups of counted changes, also those whose changes were rolled back.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Makes ordinary changes from a position on sensitive if `is_sensitive` says so of their group and hash.
    pub fn settle(
        &mut self,
        start: usize,
        mode: SensitiveEvents,
        is_sensitive: impl Fn(&Bulk, &Group, u64) -> bool,
    ) -> Result<(), Unrecorded> {
        for place in start..self.entries.len() {
            let entry = self.entries[place];
            let group = self.groups.get(entry.place as usize).copied();
            let Some(group) = group.filter(|_| entry.operation.is_some()) else { continue };
            if group.sensitive.is_none() && is_sensitive(self, &group, entry.id) {
                self.entries[place].place = self.group(Group { sensitive: Some(mode), ..group })?;
            }
        }
        Ok(())
    }

    /// Whether any ordinary change is of a ticket that `is_sensitive` selects by its group and hash.
    pub fn any_ordinary(&self, is_sensitive: impl Fn(&Group, u64) -> bool) -> bool {
        self.entries.iter().filter(|entry| entry.operation.is_some()).any(|entry| {
            let group = &self.groups[entry.place as usize];
            group.sensitive.is_none() && is_sensitive(group, entry.id)
        })
    }

    /// The changes of each group from a position on.
    pub fn counts(&self, start: usize) -> Result<Vec<Counts>, Unrecorded> {
        let mut counts = vec![];
        may_fail(|| counts.try_reserve(self.groups.len()))?;
        counts.resize(self.groups.len(), [0; 3]);
        for entry in self.entries.get(start..).unwrap_or_default() {
            if let Some(operation) = entry.operation {
                counts[entry.place as usize][operation as usize] += 1;
            }
        }
        Ok(counts)
    }

    fn find(&mut self, municipality: &[u8]) -> Option<usize> {
        if self.municipalities.get(self.last).is_some_and(|last| *last.id == *municipality) {
            return Some(self.last);
        }
        self.last = *self.index.get(municipality)?;
        Some(self.last)
    }

    fn municipality(&mut self, municipality: &[u8]) -> Result<usize, Unrecorded> {
        if let Some(place) = self.find(municipality) {
            return Ok(place);
        }
        may_fail(|| self.municipalities.try_reserve(1))?;
        may_fail(|| self.index.try_reserve(1))?;
        let (id, key) = (copy(municipality)?, copy(municipality)?);
        self.last = self.municipalities.len();
        self.municipalities.push(Municipality { id, listed: [0; 2], groups: vec![] });
        self.index.insert(key, self.last);
        Ok(self.last)
    }

    fn group(&mut self, group: Group) -> Result<u32, Unrecorded> {
        let own = &mut self.municipalities[group.municipality].groups;
        if let Some(place) = own.iter().find(|place| self.groups[**place as usize] == group) {
            return Ok(*place);
        }
        may_fail(|| own.try_reserve(1))?;
        may_fail(|| self.groups.try_reserve(1))?;
        let place = self.groups.len() as u32;
        own.push(place);
        self.groups.push(group);
        Ok(place)
    }
}

fn copy(text: &[u8]) -> Result<Box<[u8]>, Unrecorded> {
    let mut copy = vec![];
    may_fail(|| copy.try_reserve_exact(text.len()))?;
    copy.extend_from_slice(text);
    Ok(copy.into_boxed_slice())
}

/// Appends the event that reports counted changes. `micros` is a time since 1970-01-01 UTC.
pub fn write(
    out: &mut Vec<u8>,
    municipality: &[u8],
    is_sensitive: bool,
    counts: &Counts,
    micros: i64,
) {
    out.extend_from_slice(b"{\"type\":\"BULK\",\"municipality_id\":");
    write_string(municipality, out);
    out.extend_from_slice(format!(",\"is_sensitive\":{is_sensitive}").as_bytes());
    for operation in [Operation::Insert, Operation::Update, Operation::Delete] {
        let (name, count) = (operation.name().to_ascii_lowercase(), counts[operation as usize]);
        out.extend_from_slice(format!(",\"{name}\":{count}").as_bytes());
    }
    out.extend_from_slice(b",\"updated_at\":");
    write_seconds(micros, out);
    out.push(b'}');
}

/// The hash of an id that is not readable.
pub fn no_id() -> u64 {
    hash(payload::NO_ID)
}

#[cfg(test)]
mod tests;
