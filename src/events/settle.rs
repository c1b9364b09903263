//! Decides at the end of a transaction what is published of its tickets, without PostgreSQL.
//!
//! A ticket with a sensitive version in the transaction counts as sensitive throughout. Events that
//! describe an ordinary version of it are published as `civic.sensitive_events` says for sensitive
//! ones. If the ticket cannot be identified, the events of all tickets that it could be are settled
//! this way.
//!
//! Events to the owner of a ticket are dropped, whatever the setting says, if the ticket has a sensitive
//! version in the transaction or had one when it began.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::buffer::{Buffer, Flags, Record, Rewritten, Unrecorded};
use super::channel::{self, CHANNEL_LIMIT};
use super::payload::{self, NO_ID, PAYLOAD_LIMIT};
use crate::pg::memory::may_fail;
use crate::settings::SensitiveEvents;

mod counted;

pub use counted::count;

/// Settled events that could not be published.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unpublished {
    /// Number of whole events whose channel would be longer than NOTIFY accepts, and one of these
    /// channels.
    pub unaddressed: usize,
    pub channel: Option<String>,
    /// Number of redacted events that NOTIFY would refuse, and the size of the longest in bytes.
    pub too_long: usize,
    pub bytes: usize,
    /// Events withheld because there was not enough memory to settle them.
    pub withheld: usize,
}

/// A ticket's table, or 0 for any, and its id as JSON.
type Key<'a> = (u32, &'a [u8]);

const ANY_TABLE: u32 = 0;

/// Settles the events from a position on, by all records of the buffer. `root_of` returns the
/// topmost parent of a partition, because a ticket may have moved between partitions.
pub fn settle(
    buffer: &mut Buffer,
    start: usize,
    mode: SensitiveEvents,
    root_of: &dyn Fn(u32) -> u32,
) -> Unpublished {
    if !is_needed(buffer, mode) {
        return Unpublished::default();
    }
    let mut unpublished = Unpublished::default();
    let settled = rewrite(buffer, start, mode, root_of, &mut unpublished);
    let is_settled = settled.and_then(|records| match records {
        Some(records) => buffer.replace_from(start, &records),
        None => Ok(()),
    });
    if is_settled.is_err() {
        // Fail closed: an event that may be about a sensitive ticket is not published.
        let withheld = buffer.withhold(start, |flags| is_open(flags, mode));
        return Unpublished { withheld, ..Unpublished::default() };
    }
    unpublished
}

fn is_needed(buffer: &Buffer, mode: SensitiveEvents) -> bool {
    let decides = if mode == SensitiveEvents::Full { Flags::OWNER } else { Flags::ORDINARY };
    buffer.may_have(decides) && buffer.sensitive_versions() != Some(0)
}

/// Whether it depends on the other records what becomes of an event.
fn is_open(flags: Flags, mode: SensitiveEvents) -> bool {
    flags.is_event()
        && flags.has(Flags::ORDINARY)
        && (flags.has(Flags::OWNER) || mode != SensitiveEvents::Full)
}

/// Whether a record of `late` makes a ticket sensitive that has an ordinary event in `sent`. True
/// if there is not enough memory to find out.
pub fn would_change(
    sent: &Buffer,
    late: &Buffer,
    mode: SensitiveEvents,
    root_of: &dyn Fn(u32) -> u32,
) -> bool {
    let Ok(tickets) = Sensitive::of(&[sent, late], mode, root_of) else { return true };
    sent.records().any(|record| tickets.concern(&record))
        || mode != SensitiveEvents::Full
            && counted::concern(sent.bulk(), &tickets.now).unwrap_or(true)
}

/// The records from a position on in their publishable form; `None` if they do not change.
fn rewrite(
    buffer: &Buffer,
    start: usize,
    mode: SensitiveEvents,
    root_of: &dyn Fn(u32) -> u32,
    unpublished: &mut Unpublished,
) -> Result<Option<Rewritten>, Unrecorded> {
    let tickets = Sensitive::of(&[buffer], mode, root_of)?;
    if !buffer.records_from(start).any(|record| tickets.concern(&record)) {
        return Ok(None);
    }
    let mut records = Rewritten::default();
    for record in buffer.records_from(start) {
        if !tickets.concern(&record) {
            records.copy(&record)?;
            continue;
        }
        if record.flags.has(Flags::OWNER) {
            continue;
        }
        let flags = record.flags.without(Flags::ORDINARY);
        if mode == SensitiveEvents::Redacted
            && let Some(redacted) = redacted(&record)
        {
            if redacted.len() <= PAYLOAD_LIMIT {
                records.push(flags, record.table, record.channel(), &redacted)?;
            } else {
                unpublished.too_long += 1;
                unpublished.bytes = unpublished.bytes.max(redacted.len());
            }
        }
        let channel = [record.channel(), channel::SENSITIVE_SUFFIX.as_bytes()].concat();
        if channel.len() <= CHANNEL_LIMIT {
            // Only the shared form, which is never longer, uses the reserved room.
            let flags = flags.without(Flags::HAS_ROOM);
            records.push(flags, record.table, &channel, record.payload())?;
        } else {
            unpublished.unaddressed += 1;
            let text = || String::from_utf8_lossy(&channel).into_owned();
            unpublished.channel.get_or_insert_with(text);
        }
    }
    Ok(Some(records))
}

fn redacted(event: &Record<'_>) -> Option<Vec<u8>> {
    if event.table == ANY_TABLE {
        payload::redact_published(event.payload())
    } else {
        payload::redact_written(event.payload())
    }
}

/// The id of an event's ticket, in the trigger's form; `None` if there is no ticket.
fn ticket_id<'a>(event: &Record<'a>) -> Option<Cow<'a, [u8]>> {
    if event.table == ANY_TABLE {
        payload::published_ticket_id(event.payload()).map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(payload::written_ticket_id(event.payload()).unwrap_or(NO_ID)))
    }
}

/// The tickets whose events change when they are settled.
struct Sensitive<'a> {
    mode: SensitiveEvents,
    /// For the channels of a municipality: the tickets with a sensitive version.
    now: SensitiveTickets<'a>,
    /// For owners: those, and the tickets that were sensitive. `None` without events to owners.
    ever: Option<SensitiveTickets<'a>>,
}

impl<'a> Sensitive<'a> {
    fn of(
        buffers: &[&'a Buffer],
        mode: SensitiveEvents,
        root_of: &'a dyn Fn(u32) -> u32,
    ) -> Result<Sensitive<'a>, Unrecorded> {
        let has_owners = buffers.iter().any(|buffer| buffer.may_have(Flags::OWNER));
        let tickets = |is_ever| SensitiveTickets::of(buffers, is_ever, root_of);
        let ever = has_owners.then(|| tickets(true)).transpose()?;
        Ok(Sensitive { mode, now: tickets(false)?, ever })
    }

    /// Whether a record is an event that is about one of them.
    fn concern(&self, record: &Record<'_>) -> bool {
        if !is_open(record.flags, self.mode) {
            return false;
        }
        let is_of_owner = record.flags.has(Flags::OWNER);
        let tickets = self.ever.as_ref().filter(|_| is_of_owner).unwrap_or(&self.now);
        tickets.have(record)
    }
}

/// The tickets that have a sensitive version.
struct SensitiveTickets<'a> {
    roots: Roots<'a>,
    ids: HashSet<Key<'a>>,
    /// Tables and municipalities with a sensitive version.
    municipalities: HashSet<Key<'a>>,
    /// Tables and municipalities with a sensitive version without a readable id: it may be any
    /// ticket there.
    without_id: HashSet<Key<'a>>,
    /// Tables where a ticket without a readable id may have come from another municipality.
    tables: HashSet<u32>,
    are_all: bool,
}

impl<'a> SensitiveTickets<'a> {
    /// With those that were sensitive and have been changed if `is_ever`. The municipality then counts as
    /// unknown: the topic of an owner does not name it.
    fn of(
        buffers: &[&'a Buffer],
        is_ever: bool,
        root_of: &'a dyn Fn(u32) -> u32,
    ) -> Result<SensitiveTickets<'a>, Unrecorded> {
        let mut tickets = SensitiveTickets {
            roots: Roots { root_of, known: RefCell::default() },
            ids: HashSet::new(),
            municipalities: HashSet::new(),
            without_id: HashSet::new(),
            tables: HashSet::new(),
            are_all: buffers.iter().any(|buffer| buffer.sensitive_versions().is_none()),
        };
        let mut classes = Classes::default();
        for record in buffers.iter().flat_map(|buffer| buffer.records()) {
            let was_sensitive =
                || record.was_sensitive().filter(|_| is_ever).map(|id| (&b""[..], id));
            if let Some((municipality, id)) = record.sensitive().or_else(was_sensitive) {
                let municipality = if is_ever { b"" } else { municipality };
                tickets.add(tickets.roots.root(record.table), municipality, id)?;
            } else if let Some((old, new)) = record.renamed() {
                let root = tickets.roots.root(record.table);
                classes.join((root, old), (root, new))?;
            }
        }
        for (root, id) in classes.that_have(&tickets.ids)? {
            tickets.add_id(root, id)?;
        }
        Ok(tickets)
    }

    fn add(&mut self, root: u32, municipality: &'a [u8], id: &'a [u8]) -> Result<(), Unrecorded> {
        for table in [root, ANY_TABLE] {
            add(&mut self.municipalities, (table, municipality))?;
            if id == NO_ID && municipality.is_empty() {
                add(&mut self.tables, table)?;
            } else if id == NO_ID {
                add(&mut self.without_id, (table, municipality))?;
            }
        }
        if id == NO_ID { Ok(()) } else { self.add_id(root, id) }
    }

    fn add_id(&mut self, root: u32, id: &'a [u8]) -> Result<(), Unrecorded> {
        add(&mut self.ids, (root, id))?;
        // An event of civic.publish names a ticket but no table.
        add(&mut self.ids, (ANY_TABLE, id))
    }

    fn have(&self, event: &Record<'_>) -> bool {
        let Some(id) = ticket_id(event) else { return false };
        let root = self.roots.root(event.table);
        let municipality = event.channel().strip_prefix(channel::PREFIX.as_bytes());
        let municipality = (root, municipality.unwrap_or_default());
        self.are_all
            || self.tables.contains(&root)
            || self.without_id.contains(&municipality)
            || *id == *NO_ID && self.municipalities.contains(&municipality)
            // Also without an id: the ticket may have received one since.
            || self.ids.contains(&(root, &*id))
            || root == ANY_TABLE
                && payload::canonical_uuid(&id).is_some_and(|id| self.ids.contains(&(root, &*id)))
    }
}

fn add<T: Eq + std::hash::Hash>(set: &mut HashSet<T>, item: T) -> Result<(), Unrecorded> {
    may_fail(|| set.try_reserve(1))?;
    set.insert(item);
    Ok(())
}

/// The topmost parent of each table, looked up once.
struct Roots<'a> {
    root_of: &'a dyn Fn(u32) -> u32,
    known: RefCell<HashMap<u32, u32>>,
}

impl Roots<'_> {
    fn root(&self, table: u32) -> u32 {
        if table == ANY_TABLE {
            return ANY_TABLE;
        }
        let known = self.known.borrow().get(&table).copied();
        known.unwrap_or_else(|| {
            let root = (self.root_of)(table);
            self.known.borrow_mut().insert(table, root);
            root
        })
    }
}

/// Groups of ids that belong to one ticket because it was renamed between them: a union-find.
#[derive(Default)]
struct Classes<'a> {
    places: HashMap<Key<'a>, usize>,
    parents: Vec<usize>,
}

impl<'a> Classes<'a> {
    fn join(&mut self, one: Key<'a>, other: Key<'a>) -> Result<(), Unrecorded> {
        let (one, other) = (self.place(one)?, self.place(other)?);
        let (one, other) = (self.find(one), self.find(other));
        self.parents[one] = other;
        Ok(())
    }

    fn place(&mut self, key: Key<'a>) -> Result<usize, Unrecorded> {
        may_fail(|| self.places.try_reserve(1))?;
        may_fail(|| self.parents.try_reserve(1))?;
        match self.places.entry(key) {
            Entry::Occupied(entry) => Ok(*entry.get()),
            Entry::Vacant(entry) => {
                let place = *entry.insert(self.parents.len());
                self.parents.push(place);
                Ok(place)
            }
        }
    }

    fn find(&mut self, mut place: usize) -> usize {
        while self.parents[place] != place {
            self.parents[place] = self.parents[self.parents[place]];
            place = self.parents[place];
        }
        place
    }

    /// All ids in the groups that contain one of these.
    fn that_have(mut self, ids: &HashSet<Key<'a>>) -> Result<Vec<Key<'a>>, Unrecorded> {
        let mut members = Vec::new();
        may_fail(|| members.try_reserve(self.places.len()))?;
        members.extend(self.places.iter().map(|(key, place)| (*key, *place)));
        let mut chosen = HashSet::new();
        for (key, place) in &members {
            if ids.contains(key) {
                add(&mut chosen, self.find(*place))?;
            }
        }
        let is_chosen = |(key, place)| chosen.contains(&self.find(place)).then_some(key);
        Ok(members.into_iter().filter_map(is_chosen).collect())
    }
}

#[cfg(test)]
mod tests;
