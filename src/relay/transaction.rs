//! What a backend does: it keeps its transaction's events, and hands them over at the commit.
//!
//! Nothing here may fail a write. Where the relay cannot take a transaction, all of its events go
//! out by ordinary NOTIFY, after what is queued: a fallback must not overtake.

use std::cell::RefCell;
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use civic_queue::Reservation;
use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::pending::Pending;
use crate::error::Error;
use crate::pg::shared::{self, FellBack, Shared};
use crate::pg::transaction::Observer;
use crate::{pg, settings};

/// How long a transaction that falls back waits for what is queued before it. The relay is back a
/// second after it ended, whatever ended it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(1);

/// Where the current transaction's events go.
#[derive(Default)]
enum Route {
    /// It has sent none.
    #[default]
    Open,
    /// They are kept for the queue.
    Kept,
    /// They have gone, and go, to NOTIFY.
    Direct(FellBack),
    /// They are in the queue, the transaction being about to end; so many.
    Reserved(Reservation, u64),
}

#[derive(Default)]
struct State {
    route: Route,
    pending: Pending,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
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

/// Takes an event for the queue. `false` where it has to go to NOTIFY, at once.
pub fn accept(channel: &CStr, payload: &CStr) -> bool {
    let Some(shared) = shared::shared() else { return false };
    let mut moves_over = Pending::default();
    let accepted = STATE.with_borrow_mut(|State { route, pending }| {
        match route {
            Route::Direct(_) | Route::Reserved(..) => return false,
            Route::Kept => {}
            Route::Open => match refusal(shared) {
                None => *route = Route::Kept,
                Some(reason) => {
                    *route = Route::Direct(reason);
                    return false;
                }
            },
        }
        let level = pg::transaction::level();
        // Past what the queue holds nothing is gained by keeping more. NOTIFY undoes with a
        // savepoint what was sent in it, so what is kept can move over when it is all of this one.
        if pending.len() > shared.queue().longest() && pending.is_all_of(level) {
            moves_over = std::mem::take(pending);
            *route = Route::Direct(FellBack::TooLarge);
            return false;
        }
        pending.push(level, channel, payload);
        true
    });
    notify(&mut moves_over);
    accepted
}

/// Waits, within bounds, until the relay has told all that was queued before now. Where another has
/// waited in vain and the queue has not moved since, it is no use.
fn wait_for_queue(shared: &'static Shared) {
    let queue = shared.queue();
    let (place, deadline) = (queue.head(), Instant::now() + PATIENCE);
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

fn fall_back(shared: &'static Shared, reason: FellBack, pending: &mut Pending) -> Route {
    shared.fell_back[reason as usize].fetch_add(1, Ordering::Relaxed);
    wait_for_queue(shared);
    notify(pending);
    Route::Open
}

/// Puts what is kept into the queue, or else hands it to NOTIFY.
fn hand_over(shared: &'static Shared, pending: &mut Pending) -> Route {
    if let Some(reason) = refusal(shared) {
        return fall_back(shared, reason, pending);
    }
    let queue = shared.queue();
    let events = pending.folded();
    if events.len() > queue.longest() || pg::notify::is_too_much(events.len()) {
        return fall_back(shared, FellBack::TooLarge, pending);
    }
    let count = super::pending::events(&events).count() as u64;
    match queue.reserve(&events, pg::transaction::now() as u64) {
        Some(reservation) => Route::Reserved(reservation, count),
        None => fall_back(shared, FellBack::QueueFull, pending),
    }
}

/// Hands what is kept to NOTIFY. Where the server's own queue has no room it is lost, and told.
/// What it calls may be interrupted: nothing is borrowed meanwhile.
fn notify(pending: &mut Pending) {
    let events = pending.events();
    let lost = events.filter(|(channel, payload)| !pg::notify::notify_if_room(channel, payload));
    let lost = lost.count();
    pending.clear();
    if lost > 0 {
        let error = Error::NotificationQueueFull;
        let message = format!("{lost} events were not notified: {}", error.message());
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pg_civic")
            .set_hint(error.hint().unwrap_or_default())
            .report(PgLogLevel::WARNING);
    }
}

pub struct Relayed;

impl Observer for Relayed {
    fn before_commit() {
        let Some(shared) = shared::shared() else { return };
        // To fall back is to wait and perhaps to warn, and there the session may be ended, which
        // comes back as `aborted`: nothing stays borrowed.
        let State { route, mut pending } = STATE.take();
        let route = match route {
            Route::Kept if !pending.is_empty() => hand_over(shared, &mut pending),
            Route::Direct(reason) => fall_back(shared, reason, &mut pending),
            Route::Open | Route::Kept | Route::Reserved(..) => Route::Open,
        };
        STATE.set(State { route, pending });
    }

    /// NOTIFY itself refuses a transaction that is prepared, in its own words.
    fn before_prepare() {
        notify(&mut STATE.take().pending);
    }

    fn committed() {
        end(|shared, reservation, count| {
            shared.accepted.fetch_add(count, Ordering::Relaxed);
            shared.queue().commit(reservation);
        });
    }

    fn aborted() {
        end(|shared, reservation, _| shared.queue().cancel(reservation));
    }

    fn subtransaction_committed(level: i32) {
        STATE.with_borrow_mut(|state| state.pending.release(level));
    }

    fn subtransaction_aborted(level: i32) {
        STATE.with_borrow_mut(|state| state.pending.roll_back(level));
    }
}

fn end(settle: impl FnOnce(&'static Shared, Reservation, u64)) {
    STATE.with_borrow_mut(|State { route, pending }| {
        pending.clear();
        if let (Route::Reserved(reservation, count), Some(shared)) =
            (std::mem::take(route), shared::shared())
        {
            settle(shared, reservation, count);
            shared.relay.wake();
        }
    });
}
