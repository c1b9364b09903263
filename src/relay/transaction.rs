//! The relay's part in a backend: at the commit it hands the transaction's events to the relay.
//!
//! Nothing here may fail a write. If the relay cannot take a transaction, all of its events go out
//! by ordinary NOTIFY, after the events already queued: a fallback must not overtake them.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use civic_queue::Reservation;

use super::{drain, frame};
use crate::events::EventError;
use crate::events::buffer::{Buffer, Flags};
use crate::pg::memory::check_available;
use crate::pg::shared::counters::count_at_commit;
use crate::pg::shared::{self, FellBack, Shared};
use crate::pg::transaction::Observer;
use crate::{pg, settings};

/// Where the current transaction's events go.
#[derive(Default)]
enum Route {
    /// Not decided: it has published nothing yet.
    #[default]
    Open,
    /// To the relay's queue.
    Queue,
    /// To NOTIFY, for this reason.
    Direct(FellBack),
    /// Reserved in the queue because the transaction is about to end, with the number of events.
    Reserved(Reservation, u64),
}

thread_local! {
    static ROUTE: RefCell<Route> = RefCell::default();
}

/// Why the relay takes no events of this backend now; `None` if it does.
pub fn refusal(shared: &Shared) -> Option<FellBack> {
    if !settings::relay() {
        Some(FellBack::Off)
    } else if shared.relay.is_this_database() == Some(false) {
        Some(FellBack::OtherDatabase)
    } else if shared.relay.pid().is_none() {
        Some(FellBack::NotRunning)
    } else {
        None
    }
}

/// Whether the relay is to take one more event of this transaction, which already keeps this many
/// bytes of events. If `false`, the event goes to NOTIFY at the commit and needs room in the
/// server's queue. The decision is made at the first event, and changes if the events exceed the
/// size of the relay's queue.
pub fn takes(kept: usize) -> bool {
    let Some(shared) = shared::shared() else { return false };
    ROUTE.with_borrow_mut(|route| {
        match route {
            Route::Open => {
                *route = refusal(shared).map_or(Route::Queue, Route::Direct);
            }
            Route::Queue if kept > shared.queue().longest() => {
                *route = Route::Direct(FellBack::TooLarge);
            }
            Route::Queue | Route::Direct(_) | Route::Reserved(..) => {}
        }
        matches!(route, Route::Queue)
    })
}

/// Puts the events into the queue, or returns the reason why it cannot.
fn hand_over(shared: &'static Shared, events: &Buffer) -> Result<Route, FellBack> {
    if let Some(reason) = refusal(shared) {
        return Err(reason);
    }
    let queue = shared.queue();
    let frame = frame::folded(events).map_err(|_| FellBack::TooLarge)?;
    if frame.len() > queue.longest() || pg::notify::is_too_much(frame.len()) {
        return Err(FellBack::TooLarge);
    }
    let count = frame::events(&frame).count() as u64;
    let reservation = queue.reserve(&frame, pg::transaction::now() as u64);
    Ok(Route::Reserved(reservation.ok_or(FellBack::QueueFull)?, count))
}

/// How many events are lost, and why.
pub type Lost = Option<(usize, EventError)>;

/// Hands the events of the transaction, which is about to commit, to the relay or to NOTIFY.
///
/// A fallback waits, and the session may be terminated there, which calls `aborted`: so no borrow
/// is held.
pub fn deliver(events: &Buffer) -> Lost {
    let Some(shared) = shared::shared() else { return notify(events) };
    let route = ROUTE.take();
    events.events_from(0, Flags::NOTIFY).next()?;
    let handed_over = match route {
        Route::Direct(reason) => Err(reason),
        Route::Open | Route::Queue | Route::Reserved(..) => hand_over(shared, events),
    };
    match handed_over {
        Ok(route) => {
            ROUTE.set(route);
            None
        }
        Err(reason) => {
            shared.fell_back[reason as usize].fetch_add(1, Ordering::Relaxed);
            drain::wait(shared);
            notify(events)
        }
    }
}

/// The most that NOTIFY allocates per byte of events: each event is rounded up, and has entries in
/// a list and a table.
const NOTIFY_SHARE: usize = 4;

/// Hands events to NOTIFY. It calls code that may be interrupted, so no borrow is held.
///
/// NOTIFY fails the transaction if there is not enough memory for its events, so in that case all
/// are dropped first.
pub fn notify(events: &Buffer) -> Lost {
    let no_memory = || {
        let count = events.events_from(0, Flags::NOTIFY).filter_map(|it| it.event()).count();
        (count > 0).then_some((count, EventError::NoMemory))
    };
    if check_available(events.len() * NOTIFY_SHARE).is_err() {
        return no_memory();
    }
    let Ok(notified) = frame::distinct(events) else { return no_memory() };
    let (mut sent, mut lost) = (0, 0);
    for record in notified {
        let Some((channel, payload)) = record.event() else { continue };
        if record.flags.has(Flags::HAS_ROOM) {
            pg::notify::notify(channel, payload);
            sent += 1;
        } else if pg::notify::notify_if_room(channel, payload) {
            sent += 1;
        } else {
            lost += 1;
        }
    }
    count_at_commit(|counters| &counters.notified, sent);
    (lost > 0).then_some((lost, EventError::NotificationQueueFull))
}

/// The transaction ends without giving its events to the relay.
pub fn forget() {
    end(|shared, reservation, _| shared.queue().cancel(reservation));
}

/// Settles the reservation of a transaction in the queue.
pub struct Relayed;

impl Observer for Relayed {
    fn before_commit() {}

    fn before_prepare() {}

    fn committed() {
        end(|shared, reservation, count| {
            shared.accepted.fetch_add(count, Ordering::Relaxed);
            shared.queue().commit(reservation);
        });
    }

    fn aborted() {
        forget();
    }

    fn subtransaction_committed(_level: i32) {}

    fn subtransaction_aborted(_level: i32) {}
}

fn end(settle: impl FnOnce(&'static Shared, Reservation, u64)) {
    if let (Route::Reserved(reservation, count), Some(shared)) = (ROUTE.take(), shared::shared()) {
        settle(shared, reservation, count);
        shared.relay.wake();
    }
}
