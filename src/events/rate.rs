//! `civic.realtime_rate`: what exceeds it is counted instead of sent, without PostgreSQL. The counts are
//! reported in the next second, or by this transaction.

use serde_json::Value;

use super::buffer::{Buffer, Flags, Record, Rewritten, Unrecorded};
use super::bulk;
use super::channel::{PREFIX, SENSITIVE_SUFFIX};
use super::payload::Operation;
use crate::pg::memory::may_fail;
use crate::pg::shared::rates::{Changes, Kind};

/// Changes of a municipality that were not sent.
#[derive(Debug)]
pub struct Folded {
    pub municipality: Box<[u8]>,
    pub changes: Changes,
    /// Destination of the events.
    flags: Flags,
}

impl Folded {
    pub fn total(&self) -> usize {
        self.changes.iter().flatten().map(|count| *count as usize).sum()
    }
}

/// Municipality and whether it is that for sensitive tickets, of a channel of tickets.
fn parts(channel: &[u8]) -> Option<(&[u8], bool)> {
    let id = channel.strip_prefix(PREFIX.as_bytes())?;
    let sensitive = id.strip_suffix(SENSITIVE_SUFFIX.as_bytes());
    Some((sensitive.unwrap_or(id), sensitive.is_some()))
}

/// The changes that an event reports; `None` if it is not one of tickets.
fn changes(payload: &[u8], is_sensitive_channel: bool) -> Option<Changes> {
    let event: Value = serde_json::from_slice(payload).ok()?;
    let kind = match event.get("is_sensitive")?.as_bool()? {
        _ if is_sensitive_channel => Kind::Sensitive,
        true => Kind::Redacted,
        false => Kind::Ordinary,
    };
    let mut changes = Changes::default();
    let counts = &mut changes[kind as usize];
    let name = event.get("type")?.as_str()?;
    if name == "BULK" {
        for (count, key) in counts.iter_mut().zip(["insert", "update", "delete"]) {
            *count = u32::try_from(event.get(key)?.as_u64()?).unwrap_or(u32::MAX);
        }
    } else {
        counts[Operation::from_name(name)? as usize] = 1;
    }
    Some(changes)
}

/// Takes from the events for Realtime, from a position on, those for which `take` has no message left in its
/// municipality, and gives what they report. Events of the application are sent in any case. An event to the owner of
/// a ticket goes with the ticket's event before it.
pub fn fold(
    events: &mut Buffer,
    start: usize,
    is_wanted: impl Fn(Flags) -> bool,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Vec<Folded> {
    let mut folded: Vec<Folded> = vec![];
    let (mut municipality, mut is_sent) = (vec![], true);
    events.redirect(start, |record| {
        if !is_wanted(record.flags) {
            return record.flags;
        }
        let none = record.flags.without(Flags::REALTIME.with(Flags::IF_INSTALLED));
        if record.flags.has(Flags::OWNER) {
            if is_sent {
                take(&municipality);
            }
            return if is_sent { record.flags } else { none };
        }
        let Some((id, is_sensitive_channel)) = parts(record.channel()) else { return record.flags };
        if municipality != id {
            municipality.clear();
            municipality.extend_from_slice(id);
        }
        let is_of_tickets = record.table != 0 || record.flags.has(Flags::BULK);
        is_sent = take(id) || !is_of_tickets || !add(&mut folded, record, id, is_sensitive_channel);
        if is_sent { record.flags } else { none }
    });
    folded
}

/// False if the event cannot be counted, so that it is sent.
fn add(
    folded: &mut Vec<Folded>,
    record: &Record<'_>,
    id: &[u8],
    is_sensitive_channel: bool,
) -> bool {
    let Some(changes) = changes(record.payload(), is_sensitive_channel) else { return false };
    // Events of one municipality come one after the other, as a rule.
    let place = folded.iter().rposition(|it| &*it.municipality == id);
    let place = match place {
        Some(place) => place,
        None => {
            let mut municipality = vec![];
            if may_fail(|| municipality.try_reserve_exact(id.len())).is_err()
                || may_fail(|| folded.try_reserve(1)).is_err()
            {
                return false;
            }
            municipality.extend_from_slice(id);
            let flags = record.flags.with(Flags::BULK);
            let flags = flags.without(Flags::NOTIFY.with(Flags::HAS_ROOM).with(Flags::ORDINARY));
            folded.push(Folded {
                municipality: municipality.into(),
                changes: Changes::default(),
                flags,
            });
            folded.len() - 1
        }
    };
    for (sum, more) in folded[place].changes.iter_mut().flatten().zip(changes.iter().flatten()) {
        *sum = sum.saturating_add(*more);
    }
    true
}

/// The events that report the changes of one municipality: channel and payload. `micros` is a time since 1970-01-01
/// UTC.
pub fn reports(municipality: &[u8], changes: &Changes, micros: i64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut reports = vec![];
    for kind in Kind::ALL {
        let counts = changes[kind as usize].map(u64::from);
        if counts == [0; 3] {
            continue;
        }
        let suffix = if kind == Kind::Sensitive { SENSITIVE_SUFFIX } else { "" };
        let channel = [PREFIX.as_bytes(), municipality, suffix.as_bytes()].concat();
        let mut event = vec![];
        bulk::write(&mut event, municipality, kind != Kind::Ordinary, &counts, micros);
        reports.push((channel, event));
    }
    reports
}

/// Has this transaction itself report the changes.
pub fn report_now(events: &mut Buffer, folded: &[Folded], micros: i64) -> Result<(), Unrecorded> {
    let mut records = Rewritten::default();
    for it in folded {
        for (channel, event) in reports(&it.municipality, &it.changes, micros) {
            records.push(it.flags, 0, &channel, &event)?;
        }
    }
    events.extend(&records)
}

#[cfg(test)]
mod tests;
