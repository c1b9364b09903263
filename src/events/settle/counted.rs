//! Settles the changes that were counted, and makes the events that report them.

use std::collections::HashSet;

use super::{Key, SensitiveTickets, Unpublished};
use crate::events::buffer::{Buffer, Flags, Rewritten, Unrecorded};
use crate::events::bulk::{self, Bulk, Counts, Group};
use crate::events::channel::{self, Audience, CHANNEL_LIMIT};
use crate::events::payload;
use crate::pg::memory::may_fail;
use crate::settings::SensitiveEvents;

/// Appends the events that report the changes counted from a position on: one for each channel and
/// sensitivity that would have received them. A change of a ticket that has a sensitive version in the
/// transaction counts as sensitive. `micros` is the time of the events.
pub fn count(
    buffer: &mut Buffer,
    start: usize,
    mode: SensitiveEvents,
    root_of: &dyn Fn(u32) -> u32,
    micros: i64,
) -> Unpublished {
    let mut unpublished = Unpublished::default();
    if buffer.bulk().counted() == 0 {
        return unpublished;
    }
    let mut bulk = buffer.take_bulk();
    let settled = settle(buffer, &mut bulk, start, mode, root_of);
    let written = write(&bulk, start, settled.is_ok(), micros, &mut unpublished);
    if written.and_then(|records| buffer.extend(&records)).is_err() {
        unpublished.withheld += 1;
    }
    buffer.put_bulk(bulk);
    unpublished
}

/// Errors: there is not enough memory; which ordinary changes are of sensitive tickets is unknown.
fn settle(
    buffer: &Buffer,
    bulk: &mut Bulk,
    start: usize,
    mode: SensitiveEvents,
    root_of: &dyn Fn(u32) -> u32,
) -> Result<(), Unrecorded> {
    if mode == SensitiveEvents::Full || buffer.sensitive_versions() == Some(0) {
        return Ok(());
    }
    let tickets = SensitiveTickets::of(&[buffer], false, root_of)?;
    let tickets = Hashed::of(&tickets)?;
    bulk.settle(start, mode, |bulk, group, id| tickets.have(bulk, group, id))
}

/// Whether an ordinary change was counted of one of these tickets.
pub fn concern(bulk: &Bulk, tickets: &SensitiveTickets<'_>) -> Result<bool, Unrecorded> {
    if bulk.counted() == 0 {
        return Ok(false);
    }
    let tickets = Hashed::of(tickets)?;
    Ok(bulk.any_ordinary(|group, id| tickets.have(bulk, group, id)))
}

/// Sensitive tickets, to be found by the hash of their id.
struct Hashed<'a> {
    tickets: &'a SensitiveTickets<'a>,
    ids: HashSet<(u32, u64)>,
    no_id: u64,
}

impl<'a> Hashed<'a> {
    fn of(tickets: &'a SensitiveTickets<'a>) -> Result<Hashed<'a>, Unrecorded> {
        let mut ids = HashSet::new();
        may_fail(|| ids.try_reserve(tickets.ids.len()))?;
        ids.extend(tickets.ids.iter().map(|(root, id)| (*root, bulk::hash(id))));
        Ok(Hashed { tickets, ids, no_id: bulk::no_id() })
    }

    /// The same question as [`SensitiveTickets::have`].
    fn have(&self, bulk: &Bulk, group: &Group, id: u64) -> bool {
        let root = self.tickets.roots.root(group.table);
        let municipality: Key<'_> = (root, bulk.municipality_of(group));
        self.tickets.are_all
            || self.tickets.tables.contains(&root)
            || self.tickets.without_id.contains(&municipality)
            || id == self.no_id && self.tickets.municipalities.contains(&municipality)
            || self.ids.contains(&(root, id))
    }
}

/// One event: channel, sensitivity and destinations.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Report<'a> {
    municipality: &'a [u8],
    is_sensitive: bool,
    /// Of the channel: the shared one comes first.
    suffix: &'static str,
    flags: Flags,
}

/// Changes that are not known to be ordinary are not reported at all.
fn write(
    bulk: &Bulk,
    start: usize,
    is_settled: bool,
    micros: i64,
    unpublished: &mut Unpublished,
) -> Result<Rewritten, Unrecorded> {
    let mut reports: Vec<(Report<'_>, Counts)> = vec![];
    for (group, counts) in bulk.groups().iter().zip(bulk.counts(start)?) {
        let number = counts.iter().sum::<u64>();
        if number == 0 {
            continue;
        }
        let is_sensitive = group.sensitive.is_some();
        if !is_sensitive && !is_settled {
            unpublished.withheld += number as usize;
            continue;
        }
        let mode = group.sensitive.unwrap_or(SensitiveEvents::Full);
        let flags = group.flags.with(Flags::BULK);
        let municipality = bulk.municipality_of(group);
        for (audience, _) in payload::deliveries(is_sensitive, mode) {
            let suffix = match audience {
                Audience::Shared => "",
                Audience::Sensitive => channel::SENSITIVE_SUFFIX,
            };
            may_fail(|| reports.try_reserve(1))?;
            reports.push((Report { municipality, is_sensitive, suffix, flags }, counts));
        }
    }
    // Changes of several tables are reported together.
    reports.sort_unstable();
    reports.dedup_by(|(next, more), (report, counts)| {
        let is_same = next == report;
        if is_same {
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += *more);
        }
        is_same
    });
    let (mut records, mut event) = (Rewritten::default(), vec![]);
    for (report, counts) in reports {
        let parts = [channel::PREFIX.as_bytes(), report.municipality, report.suffix.as_bytes()];
        let channel = parts.concat();
        if channel.len() > CHANNEL_LIMIT {
            unpublished.unaddressed += 1;
            let text = || String::from_utf8_lossy(&channel).into_owned();
            unpublished.channel.get_or_insert_with(text);
            continue;
        }
        event.clear();
        bulk::write(&mut event, report.municipality, report.is_sensitive, &counts, micros);
        records.push(report.flags, super::ANY_TABLE, &channel, &event)?;
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
