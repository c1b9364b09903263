//! Where a backend keeps its transaction's events, and how they leave at the end of it.
//!
//! Nothing leaves before: whether a ticket is sensitive is known only when the last statement and the
//! last deferred trigger have run. Then the events are settled, sent to Supabase Realtime, and handed
//! to the relay or to NOTIFY. They come behind what the application has notified by itself.

use std::cell::{Cell, RefCell};

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::buffer::{Buffer, Flags};
use super::realtime::Broadcast;
use super::settle::{self, Unpublished};
use crate::error::{Error, Report};
use crate::events::EventError;
use crate::pg::transaction::Observer;
use crate::relay::transaction as relay;
use crate::{pg, settings};

/// Realtime's own triggers may change tickets while messages are stored, and what these changes publish
/// is sent too, so often at most.
const ROUNDS: usize = 4;

thread_local! {
    static EVENTS: RefCell<Buffer> = RefCell::default();
    /// The transaction's events have left: it is about to end.
    static IS_HANDED_OVER: Cell<bool> = const { Cell::new(false) };
}

/// Keeps an event for the end of the transaction. The caller says where it goes, except whether room
/// for it in the server's queue is needed now: where the relay does not take it.
///
/// Errors: the server's queue has no room for it, or there is no memory. Realtime may get it still.
pub fn keep(mut flags: Flags, table: u32, channel: &[u8], payload: &[u8]) -> Result<(), Error> {
    let mut result = Ok(());
    if flags.has(Flags::NOTIFY) {
        let kept = EVENTS.with_borrow(Buffer::len);
        if IS_HANDED_OVER.get() || !relay::takes(kept) {
            if pg::notify::take_room(channel.len() + payload.len()) {
                flags = flags.with(Flags::HAS_ROOM);
            } else {
                flags = flags.without(Flags::NOTIFY);
                result = Err(EventError::NotificationQueueFull.into());
            }
        }
    }
    if IS_HANDED_OVER.get() {
        notify_late(flags, table, channel, payload)?;
        return result;
    }
    let level = pg::transaction::level();
    EVENTS
        .with_borrow_mut(|events| events.push(level, flags, table, channel, payload))
        .map_err(|_| EventError::NoMemory)?;
    result
}

/// Another extension has changed a ticket in its own hook of the commit, behind ours. What this
/// transaction has published is on its way already, so this event follows by NOTIFY.
#[cold]
fn notify_late(flags: Flags, table: u32, channel: &[u8], payload: &[u8]) -> Result<(), Error> {
    let mut events = Buffer::default();
    events.push(1, flags, table, channel, payload).map_err(|_| EventError::NoMemory)?;
    relay::notify(&events).map_or(Ok(()), |(_, error)| Err(error.into()))
}

/// Records that a ticket has a sensitive version in this transaction. The id is JSON; an empty
/// municipality stands for any.
pub fn note_sensitive(table: u32, municipality_id: &str, id: &[u8]) {
    let level = pg::transaction::level();
    EVENTS.with_borrow_mut(|events| {
        events.push_sensitive(level, table, municipality_id.as_bytes(), id);
    });
}

/// Records that a ticket's id was changed in this transaction. Both are JSON.
pub fn note_renamed(table: u32, old: &[u8], new: &[u8]) {
    let level = pg::transaction::level();
    EVENTS.with_borrow_mut(|events| events.push_renamed(level, table, old, new));
}

/// How many sensitive versions were recorded since the events were taken; `None` where that is not known.
pub fn sensitive_versions() -> Option<usize> {
    EVENTS.with_borrow(Buffer::sensitive_versions)
}

/// Whether code that ran since the events were taken has made a ticket sensitive of which an ordinary
/// event is among them.
pub fn is_overtaken(taken: &Buffer) -> bool {
    // The catalog is read meanwhile, so the buffer is not borrowed.
    let late = Late(EVENTS.take());
    settle::would_change(taken, &late.0, settings::sensitive_events(), &pg::table::root)
}

/// Events that are put back, also where an error unwinds.
struct Late(Buffer);

impl Drop for Late {
    fn drop(&mut self) {
        EVENTS.set(std::mem::take(&mut self.0));
    }
}

/// Takes the transaction's events as they may be published, and sends Realtime what is for it. What is
/// called here may raise an error or run other people's code: nothing stays borrowed.
fn take_settled() -> Buffer {
    let mut events = EVENTS.take();
    if events.is_empty() {
        return events;
    }
    settle(&mut events, 0);
    let Some(mut broadcast) = Broadcast::begin(&events) else { return events };
    let (mut sent, mut has_late) = (0, false);
    for _ in 0..ROUNDS {
        broadcast.send(&events, sent);
        sent = events.len();
        let late = EVENTS.take();
        if late.is_empty() {
            break;
        }
        has_late = true;
        if events.append(&late).is_err() {
            warn_of_lost(late.events_from(0, Flags::default()).count(), &EventError::NoMemory);
        }
        settle(&mut events, sent);
    }
    broadcast.finish(&events, sent);
    if has_late {
        // What came late decides about the earlier events too.
        settle(&mut events, 0);
    }
    events
}

fn settle(events: &mut Buffer, start: usize) {
    let mode = settings::sensitive_events();
    let Unpublished { unaddressed, channel, too_long, bytes, withheld } =
        settle::settle(events, start, mode, &pg::table::root);
    if let Some(channel) = channel {
        let limit = super::channel::CHANNEL_LIMIT;
        warn_of_lost(unaddressed, &EventError::ChannelTooLong { channel, limit });
    }
    let limit = super::payload::PAYLOAD_LIMIT;
    warn_of_lost(too_long, &EventError::PayloadTooLong { bytes, limit });
    warn_of_lost(withheld, &EventError::NoMemory);
}

fn warn_of_lost(lost: usize, error: &EventError) {
    if lost == 0 {
        return;
    }
    let events = if lost == 1 { "event was" } else { "events were" };
    let message = format!("{lost} {events} not notified: {}", error.message());
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pg_civic")
        .set_hint(error.hint().unwrap_or_default())
        .report(PgLogLevel::WARNING);
}

fn end() {
    EVENTS.with_borrow_mut(Buffer::clear);
    IS_HANDED_OVER.set(false);
}

pub struct Settled;

impl Observer for Settled {
    fn before_commit() {
        let events = take_settled();
        if let Some((lost, error)) = relay::deliver(&events) {
            warn_of_lost(lost, &error);
        }
        IS_HANDED_OVER.set(true);
        // For the next transaction, which then allocates nothing.
        EVENTS.set(events);
    }

    /// NOTIFY itself refuses a transaction that is prepared, in its own words.
    fn before_prepare() {
        if let Some((lost, error)) = relay::notify(&take_settled()) {
            warn_of_lost(lost, &error);
        }
        relay::forget();
        end();
    }

    fn committed() {
        end();
    }

    fn aborted() {
        end();
    }

    fn subtransaction_committed(level: i32) {
        EVENTS.with_borrow_mut(|events| events.release(level));
    }

    fn subtransaction_aborted(level: i32) {
        super::realtime::subtransaction_aborted(level);
        EVENTS.with_borrow_mut(|events| events.roll_back(level));
    }
}
