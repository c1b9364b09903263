//! The events of a backend's current transaction, and their publication at its end.
//!
//! Nothing is published earlier: whether a ticket is sensitive is known only after the last
//! statement and the last deferred trigger. Then the events are settled, sent to Supabase Realtime,
//! and handed to the relay or to NOTIFY. They follow notifications that the application itself has
//! issued.

use std::cell::Cell;

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::buffer::{Buffer, Flags};
use super::limit;
use super::pending;
use super::realtime::Broadcast;
use super::settle::{self, Unpublished};
use crate::error::{Error, Report};
use crate::events::EventError;
use crate::pg::shared::counters::count_at_commit;
use crate::pg::transaction::Observer;
use crate::relay::{prepared, transaction as relay};
use crate::{pg, settings};

/// Realtime's triggers may change tickets while messages are stored. Events of these changes are
/// sent too, in at most this many rounds.
const ROUNDS: usize = 4;

thread_local! {
    /// The transaction's events have left, because it is about to end.
    static IS_HANDED_OVER: Cell<bool> = const { Cell::new(false) };
}

/// Keeps an event for the end of the transaction. The caller sets the destinations. This function
/// adds whether the event needs room in the server's queue now, which is so if the relay does not
/// take it.
///
/// Errors: the server's queue has no room, or there is not enough memory. Realtime may still
/// receive the event.
pub fn keep(mut flags: Flags, table: u32, channel: &[u8], payload: &[u8]) -> Result<(), Error> {
    let mut result = Ok(());
    if flags.has(Flags::NOTIFY) {
        let kept = pending::notified();
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
    pending::push(flags, table, channel, payload)?;
    result
}

/// Whether further changes of the municipality's ordinary tickets, or of its sensitive ones, are counted in this
/// transaction, and not listed.
pub fn is_bulk(municipality_id: &str, is_sensitive: bool) -> bool {
    let after = settings::bulk_after();
    after > 0 && !IS_HANDED_OVER.get() && pending::is_bulk(municipality_id, is_sensitive, after)
}

/// Another extension has changed a ticket in its own commit hook, after ours. The transaction's
/// other events have already left, so this one follows by NOTIFY.
#[cold]
fn notify_late(flags: Flags, table: u32, channel: &[u8], payload: &[u8]) -> Result<(), Error> {
    let mut events = Buffer::default();
    events.push(1, flags, table, channel, payload).map_err(|_| EventError::NoMemory)?;
    relay::notify(&events).map_or(Ok(()), |(_, error)| Err(error.into()))
}

/// Takes the transaction's events in their publishable form and sends those for Realtime. It calls
/// code that may raise an error or belong to other roles, so no borrow is held.
fn take_settled() -> Buffer {
    let events = settle_and_send();
    let changes = events.bulk().counted();
    if changes > 0 {
        let reports = events.events_from(0, Flags::BULK).count();
        count_at_commit(|counters| &counters.bulk_events, reports);
        count_at_commit(|counters| &counters.bulk_changes, changes);
    }
    events
}

fn settle_and_send() -> Buffer {
    let mut events = pending::take();
    if events.is_empty() {
        return events;
    }
    settle(&mut events, 0, 0);
    let Some(mut broadcast) = Broadcast::begin(&events) else { return events };
    let (mut sent, mut has_late) = (0, false);
    for _ in 0..ROUNDS {
        limit::apply(&mut events, sent, &broadcast);
        broadcast.send(&events, sent);
        sent = events.len();
        let counted = events.bulk().len();
        let late = pending::take();
        if late.is_empty() {
            break;
        }
        has_late = true;
        if events.append(&late).is_err() {
            warn_of_lost(late.events_from(0, Flags::default()).count(), &EventError::NoMemory);
        }
        settle(&mut events, sent, counted);
    }
    if broadcast.is_overtaken() {
        limit::forget();
    }
    broadcast.finish(&events, sent);
    if has_late {
        // Later records decide about the earlier events too.
        events.withhold(0, |flags| flags.has(Flags::BULK));
        settle(&mut events, 0, 0);
    }
    events
}

/// Settles the events and the counted changes from these positions on.
fn settle(events: &mut Buffer, start: usize, counted: usize) {
    let mode = settings::sensitive_events();
    warn_of_unpublished(settle::settle(events, start, mode, &pg::table::root));
    let now = pg::transaction_start();
    warn_of_unpublished(settle::count(events, counted, mode, &pg::table::root, now));
}

fn warn_of_unpublished(unpublished: Unpublished) {
    let Unpublished { unaddressed, channel, too_long, bytes, withheld } = unpublished;
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
    count_at_commit(|counters| &counters.notify_lost, lost);
    let events = if lost == 1 { "event was" } else { "events were" };
    let message = format!("{lost} {events} not notified: {}", error.message());
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pg_civic")
        .set_hint(error.hint().unwrap_or_default())
        .report(PgLogLevel::WARNING);
}

fn end() {
    limit::forget();
    pending::clear();
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
        // Keep the allocation for the next transaction.
        pending::put_back(events);
    }

    fn before_prepare() {
        limit::report_within_transaction();
        if let Some((lost, error)) = prepared::store(&take_settled()) {
            warn_of_lost(lost, &error);
        }
        relay::forget();
        end();
    }

    fn committed() {
        limit::hand_over();
        end();
    }

    fn aborted() {
        end();
    }

    fn subtransaction_committed(level: i32) {
        pending::release(level);
    }

    fn subtransaction_aborted(level: i32) {
        super::realtime::subtransaction_aborted(level);
        pending::roll_back(level);
    }
}
