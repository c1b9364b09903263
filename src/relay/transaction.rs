//! What a backend does: at the commit it hands its transaction's events to the relay.
//!
//! Nothing here may fail a write. Where the relay cannot take a transaction, all of its events go
//! out by ordinary NOTIFY, after what is queued: a fallback must not overtake.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use civic_queue::Reservation;

use super::frame;
use crate::events::EventError;
use crate::events::buffer::{Buffer, Flags};
use crate::pg::memory::check_available;
use crate::pg::shared::{self, FellBack, Shared};
use crate::pg::transaction::Observer;
use crate::{pg, settings};

/// How long a transaction that falls back waits for what is queued before it. The relay is back a
/// second after it ended, whatever ended it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(1);

/// Where the current transaction's events go.
#[derive(Default)]
enum Route {
    /// It has notified nothing yet.
    #[default]
    Open,
    /// To the relay's queue.
    Queue,
    /// To NOTIFY, for this reason.
    Direct(FellBack),
    /// They are in the queue, the transaction being about to end; so many.
    Reserved(Reservation, u64),
}

thread_local! {
    static ROUTE: RefCell<Route> = RefCell::default();
}

/// Why the relay takes no events of this backend now, if it does not.
fn refusal(shared: &Shared) -> Option<FellBack> {
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

/// Whether the relay is to take one more event of this transaction, which has kept so many bytes of
/// events. `false` where the event goes to NOTIFY at the commit: then it needs room in the server's queue.
/// Decided at the first event, and changed once the events are more than the relay's queue holds.
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

/// Waits, within bounds, until the relay has told all that was queued before now. Where another has
/// waited in vain and the queue has not moved since, it is no use.
fn wait_for_queue(shared: &'static Shared) {
    let queue = shared.queue();
    let (place, deadline) = (queue.head(), Instant::now() + DRAIN_TIMEOUT);
    if queue.tail() >= place || shared.relay.is_this_database() != Some(true) {
        return;
    }
    shared.awaited.fetch_max(place, Ordering::Relaxed);
    shared.relay.wake();
    loop {
        let tail = queue.tail();
        if tail >= place || shared.given_up.load(Ordering::Relaxed) == tail + 1 {
            return;
        }
        if Instant::now() >= deadline {
            return shared.given_up.store(tail + 1, Ordering::Relaxed);
        }
        pg::transaction::wait(LOOK);
    }
}

/// Puts the events into the queue, or says why it cannot.
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

/// Hands the transaction's events to the relay, or to NOTIFY: the transaction is about to commit.
///
/// To fall back is to wait, and there the session may be ended, which comes back as `aborted`: nothing
/// stays borrowed.
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
            wait_for_queue(shared);
            notify(events)
        }
    }
}

/// What NOTIFY allocates for the bytes of events, at most: each is rounded up, and has an entry in a list
/// and a table beside it.
const NOTIFY_SHARE: usize = 4;

/// Hands events to NOTIFY. What it calls may be interrupted: nothing is borrowed meanwhile.
///
/// NOTIFY fails the transaction where memory does not hold its events, so all are lost before that.
pub fn notify(events: &Buffer) -> Lost {
    let notified = || events.events_from(0, Flags::NOTIFY).filter_map(|it| Some((it, it.event()?)));
    if check_available(events.len() * NOTIFY_SHARE).is_err() {
        let count = notified().count();
        return (count > 0).then_some((count, EventError::NoMemory));
    }
    let mut lost = 0;
    for (record, (channel, payload)) in notified() {
        if record.flags.has(Flags::HAS_ROOM) {
            pg::notify::notify(channel, payload);
        } else if !pg::notify::notify_if_room(channel, payload) {
            lost += 1;
        }
    }
    (lost > 0).then_some((lost, EventError::NotificationQueueFull))
}

/// The transaction ends without giving its events to the relay.
pub fn forget() {
    end(|shared, reservation, _| shared.queue().cancel(reservation));
}

/// Settles what the transaction has reserved in the queue.
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
