//! The form of one record of the log, and of a sequence of them.

use std::ffi::CStr;

use super::payload::NO_ID;
use crate::pg::memory::may_fail;

/// There is not enough memory for a record, or one of its texts is longer than a record holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Unrecorded;

impl From<std::collections::TryReserveError> for Unrecorded {
    fn from(_: std::collections::TryReserveError) -> Unrecorded {
        Unrecorded
    }
}

/// Destinations of an event, and what is still undecided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flags(u16);

impl Flags {
    /// By NOTIFY, through the relay or directly.
    pub const NOTIFY: Flags = Flags(1);
    /// Room in the server's notification queue is already reserved.
    pub const HAS_ROOM: Flags = Flags(2);
    /// To Supabase Realtime.
    pub const REALTIME: Flags = Flags(4);
    /// To Supabase Realtime if it is installed.
    pub const IF_INSTALLED: Flags = Flags(8);
    /// Describes an ordinary version: settled as sensitive if its ticket is.
    pub const ORDINARY: Flags = Flags(16);
    /// Not an event: a sensitive version of a ticket. The texts are municipality and id.
    pub(super) const SENSITIVE: Flags = Flags(32);
    /// Not an event: a changed id. The texts are the old and the new one.
    pub(super) const RENAMED: Flags = Flags(64);
    /// Not an event: a sensitive version that the transaction has replaced. The texts are empty and
    /// the id.
    pub(super) const WAS_SENSITIVE: Flags = Flags(32 | 64);
    /// To the owner of the ticket: not sent at all if the ticket is or was sensitive.
    pub const OWNER: Flags = Flags(128);
    /// Reports changes that were counted.
    pub const BULK: Flags = Flags(256);

    pub fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    pub fn has_any(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }

    pub fn with(self, flags: Flags) -> Flags {
        Flags(self.0 | flags.0)
    }

    pub fn without(self, flags: Flags) -> Flags {
        Flags(self.0 & !flags.0)
    }

    pub(super) fn to_bytes(self) -> [u8; TABLE] {
        self.0.to_ne_bytes()
    }

    pub fn is_event(self) -> bool {
        self.is_kind(Flags(0))
    }

    fn is_kind(self, kind: Flags) -> bool {
        self.0 & (Flags::SENSITIVE.0 | Flags::RENAMED.0) == kind.0
    }
}

/// One entry of the log.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub flags: Flags,
    /// OID of the ticket's table; 0 for an event of `civic.publish`.
    pub table: u32,
    /// Lengths and texts, each followed by a NUL: the form of events in the relay's queue.
    pub frame: &'a [u8],
    bytes: &'a [u8],
    first: &'a [u8],
    second: &'a [u8],
}

impl<'a> Record<'a> {
    /// Channel and payload. `None` if it is not an event, or a text holds a NUL.
    pub fn event(&self) -> Option<(&'a CStr, &'a CStr)> {
        if !self.flags.is_event() {
            return None;
        }
        let channel = CStr::from_bytes_with_nul(self.first).ok()?;
        Some((channel, CStr::from_bytes_with_nul(self.second).ok()?))
    }

    pub fn channel(&self) -> &'a [u8] {
        without_nul(self.first)
    }

    pub fn payload(&self) -> &'a [u8] {
        without_nul(self.second)
    }

    /// Municipality and id of a sensitive version.
    pub fn sensitive(&self) -> Option<(&'a [u8], &'a [u8])> {
        self.texts_of(Flags::SENSITIVE)
    }

    /// Id of a ticket that was sensitive before the transaction changed it.
    pub fn was_sensitive(&self) -> Option<&'a [u8]> {
        self.texts_of(Flags::WAS_SENSITIVE).map(|(_, id)| id)
    }

    /// Old and new id.
    pub fn renamed(&self) -> Option<(&'a [u8], &'a [u8])> {
        self.texts_of(Flags::RENAMED)
    }

    fn texts_of(&self, kind: Flags) -> Option<(&'a [u8], &'a [u8])> {
        self.flags.is_kind(kind).then(|| (without_nul(self.first), without_nul(self.second)))
    }
}

fn without_nul(text: &[u8]) -> &[u8] {
    text.split_last().map_or(text, |(_, text)| text)
}

/// Flags, table, and the lengths of both texts without their NUL.
pub(super) const HEADER: usize = TABLE + 4 + LENGTHS;
/// Where the table begins, after the flags.
pub(super) const TABLE: usize = 2;
pub const LENGTHS: usize = 4;

/// Records that replace others.
#[derive(Debug, Default)]
pub struct Rewritten {
    pub(super) bytes: Vec<u8>,
}

impl Rewritten {
    pub fn copy(&mut self, record: &Record<'_>) -> Result<(), Unrecorded> {
        may_fail(|| self.bytes.try_reserve(record.bytes.len()))?;
        self.bytes.extend_from_slice(record.bytes);
        Ok(())
    }

    pub fn push(
        &mut self,
        flags: Flags,
        table: u32,
        channel: &[u8],
        payload: &[u8],
    ) -> Result<(), Unrecorded> {
        if !fits(channel) || !fits(payload) {
            return Err(Unrecorded);
        }
        may_fail(|| self.bytes.try_reserve(HEADER + channel.len() + payload.len() + 2))?;
        append(&mut self.bytes, flags, table, channel, payload);
        Ok(())
    }
}

/// Whether the text's length fits in two bytes.
pub(super) fn fits(text: &[u8]) -> bool {
    text.len() <= usize::from(u16::MAX)
}

/// An id too long for a record counts as unreadable.
pub(super) fn known_id(id: &[u8]) -> &[u8] {
    if fits(id) { id } else { NO_ID }
}

/// The caller has reserved the room, and the texts fit.
pub(super) fn append(bytes: &mut Vec<u8>, flags: Flags, table: u32, first: &[u8], second: &[u8]) {
    bytes.extend_from_slice(&flags.to_bytes());
    bytes.extend_from_slice(&table.to_ne_bytes());
    for text in [first, second] {
        bytes.extend_from_slice(&(text.len() as u16).to_ne_bytes());
    }
    for text in [first, second] {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
}

pub struct Records<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (record, size) = first(self.bytes)?;
        self.bytes = &self.bytes[size..];
        Some(record)
    }
}

/// The first record and its size.
pub(super) fn first(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let length = |at: usize| {
        let length = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_ne_bytes(length)))
    };
    let flags = u16::from_ne_bytes(bytes.get(..TABLE)?.try_into().ok()?);
    let table = u32::from_ne_bytes(bytes.get(TABLE..TABLE + 4)?.try_into().ok()?);
    let second = HEADER + length(TABLE + 4)? + 1;
    let size = second + length(TABLE + 6)? + 1;
    let record = Record {
        flags: Flags(flags),
        table,
        frame: bytes.get(HEADER - LENGTHS..size)?,
        bytes: bytes.get(..size)?,
        first: bytes.get(HEADER..second)?,
        second: bytes.get(second..size)?,
    };
    Some((record, size))
}
