//! Events of prepared transactions. NOTIFY would refuse the transaction, and after PREPARE TRANSACTION no
//! backend has a part in it. So it stores its events in civic.prepared_events, and the relay publishes what
//! it sees there: the events of those that are committed.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;

use pgrx::bgworkers::BackgroundWorker;

use super::drain::PREPARED_EVENTS;
use super::frame;
use super::transaction::{Lost, refusal};
use crate::error::Error;
use crate::events::EventError;
use crate::events::buffer::{Buffer, Flags};
use crate::pg::shared::{self, Shared};
use crate::pg::transaction::Observer;
use crate::{catalog, pg};

thread_local! {
    /// The current transaction has stored events.
    static HAS_STORED: Cell<bool> = const { Cell::new(false) };
}

/// Stores the events of the transaction, which is about to be prepared.
pub fn store(events: &Buffer) -> Lost {
    let count = events.events_from(0, Flags::NOTIFY).filter_map(|it| it.event()).count();
    if count == 0 {
        return None;
    }
    match try_to_store(events) {
        Ok(()) => {
            HAS_STORED.set(true);
            None
        }
        Err(error) => Some((count, error)),
    }
}

fn try_to_store(events: &Buffer) -> Result<(), EventError> {
    let because = |why: &str| EventError::Prepared { why: why.to_owned() };
    let Some(shared) = shared::shared().filter(|shared| refusal(shared).is_none()) else {
        return Err(because("no relay takes events of this session"));
    };
    let frame = frame::folded(events).map_err(|_| EventError::NoMemory)?;
    if pg::notify::is_too_much(frame.len()) {
        return Err(because("they are too many for one notification of the relay"));
    }
    let (queue, place) = (queue(shared), shared.queue().head() as i64);
    let insert = || {
        let sql = "INSERT INTO civic.prepared_events (events, queue, place) VALUES ($1, $2, $3)";
        let arguments = [frame.as_ref().into(), queue.into(), place.into()];
        catalog::with_own_table(PREPARED_EVENTS, || catalog::update(sql, &arguments))
            .map_err(|error| error.message())
    };
    let stored = pg::transaction::with_snapshot(|| {
        pg::subtransaction::attempt(insert, |_, message| message.to_owned())
    });
    match stored {
        Ok(Some(())) => Ok(()),
        Ok(None) => Err(because("there is no table civic.prepared_events of this extension")),
        Err(why) => Err(because(&why)),
    }
}

/// Tells the relay of a transaction that has stored events.
pub struct Stored;

impl Observer for Stored {
    fn before_commit() {}

    fn before_prepare() {}

    /// The relay looks for it from now on.
    fn prepared() {
        if HAS_STORED.take()
            && let Some(shared) = shared::shared()
        {
            shared.note_prepared();
            shared.relay.wake();
        }
    }

    fn committed() {}

    fn aborted() {
        HAS_STORED.set(false);
    }

    fn subtransaction_committed(_level: i32) {}

    fn subtransaction_aborted(_level: i32) {}
}

/// Events of a prepared transaction that is committed.
pub struct Committed {
    id: i64,
    events: Vec<u8>,
    /// The place in the relay's queue: what is before it was committed before the transaction's last statement,
    /// and a change that has waited for the transaction is behind it.
    pub place: u64,
}

/// The first transaction whose events wait, if any may. It is looked for after a batch was read from the
/// queue: so it is found if anything in the batch has waited for it.
///
/// Errors: somebody has locked the table.
pub fn first(shared: &'static Shared) -> Result<Option<Committed>, Locked> {
    if !shared.may_have_prepared() {
        return Ok(None);
    }
    // Each step before the next: what is prepared or committed meanwhile is looked for again.
    let prepared = shared.prepared();
    let is_prepared = transaction(|| {
        let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts
                   WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database())";
        catalog::holds(sql, &[])
    });
    let found = transaction(|| {
        if !pg::table::find(c"civic", c"prepared_events").is_none_or(pg::worker::lock_rows_if_free)
        {
            return Ok(Err(Locked));
        }
        let sql =
            "SELECT id, events, CASE WHEN queue OPERATOR(pg_catalog.=) $1 THEN place ELSE 0 END
                   FROM civic.prepared_events ORDER BY id LIMIT 1";
        let read = |row: &pg::Row<'_, '_>| Ok((row.get(1)?, row.get(2)?, row.get(3)?));
        let rows = catalog::with_own_table(PREPARED_EVENTS, || {
            catalog::rows(sql, &[queue(shared).into()], read)
        })?;
        let first = rows.into_iter().flatten().next();
        Ok(Ok(first.and_then(
            |(id, events, place): (Option<i64>, Option<Vec<u8>>, Option<i64>)| {
                Some(Committed { id: id?, events: events?, place: place? as u64 })
            },
        )))
    });
    if !is_prepared && matches!(found, Ok(None)) {
        shared.settle_prepared(prepared);
    }
    found
}

/// Somebody has locked the table of events.
pub struct Locked;

impl Committed {
    /// Publishes the events, in a transaction of its own; false if the server's queue has no room for them.
    pub fn publish(self, shared: &'static Shared) -> bool {
        if self.events.len() > pg::notify::room() {
            return false;
        }
        let count = transaction(|| {
            let sql = "DELETE FROM civic.prepared_events WHERE id OPERATOR(pg_catalog.=) $1";
            catalog::with_own_table(PREPARED_EVENTS, || catalog::update(sql, &[self.id.into()]))?;
            let notified = frame::events(&self.events);
            Ok(notified.map(|(channel, payload)| pg::notify::notify(channel, payload)).count())
        });
        for counter in [&shared.accepted, &shared.delivered] {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
        shared.batches.fetch_add(1, Ordering::Relaxed);
        true
    }
}

fn transaction<R>(action: impl FnOnce() -> Result<R, Error>) -> R {
    let action = || action().unwrap_or_else(|error| error.raise());
    BackgroundWorker::transaction(AssertUnwindSafe(action))
}

/// Which queue of the relay a place is in: a restart of the server makes a new one.
fn queue(shared: &'static Shared) -> i64 {
    let now = pg::transaction::now() as u64;
    let made = shared.queue_id.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    made.map_or_else(|made| made, |_| now) as i64
}
