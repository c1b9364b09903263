//! What a transaction whose events go out by ordinary NOTIFY waits for: events of the same tickets that the
//! relay has not published yet, in its queue or of prepared transactions.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::pg::shared::Shared;
use crate::{catalog, pg};

/// How long the transaction waits in all. The relay restarts one second after it ends, for any reason.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two looks at the queue, and at the table.
const QUEUE_INTERVAL: Duration = Duration::from_millis(1);
const TABLE_INTERVAL: Duration = Duration::from_millis(5);

/// The extension's table of events of prepared transactions.
pub const PREPARED_EVENTS: &str = "prepared_events";

/// Waits until the relay has published what was committed before. It does not wait where another
/// transaction has timed out and nothing has moved since.
pub fn wait(shared: &'static Shared) {
    if shared.relay.is_this_database() == Some(true) {
        let deadline = Instant::now() + TIMEOUT;
        wait_for_queue(shared, deadline);
        wait_for_prepared(shared, deadline);
    }
}

fn wait_for_queue(shared: &'static Shared, deadline: Instant) {
    let queue = shared.queue();
    let place = queue.head();
    if queue.tail() >= place {
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
        pg::transaction::wait(QUEUE_INTERVAL);
    }
}

/// The relay publishes in the order of the ids, so everything up to the last one that is there now. A
/// transaction that commits with a lower id meanwhile has changed other tickets, and is waited for too.
fn wait_for_prepared(shared: &'static Shared, deadline: Instant) {
    if !shared.may_have_prepared() {
        return;
    }
    let mut awaited = None;
    loop {
        match look() {
            Look::Nothing => return,
            Look::Locked => {}
            Look::Waiting { first, last } => {
                let awaited = *awaited.get_or_insert(last);
                if first > awaited || first <= shared.prepared_given_up.load(Ordering::Relaxed) {
                    return;
                }
                if Instant::now() >= deadline {
                    return shared.prepared_given_up.store(first, Ordering::Relaxed);
                }
            }
        }
        if Instant::now() >= deadline {
            return;
        }
        shared.relay.wake();
        pg::transaction::wait(TABLE_INTERVAL);
    }
}

enum Look {
    Nothing,
    /// Somebody has locked the table.
    Locked,
    /// The ids of the first and of the last transaction that is committed and not published.
    Waiting {
        first: i64,
        last: i64,
    },
}

/// Must not fail the write: whatever goes wrong, nothing is waited for.
fn look() -> Look {
    const SQL: &str = "SELECT pg_catalog.min(id), pg_catalog.max(id) FROM civic.prepared_events";
    let read = || {
        let is_free =
            pg::table::find(c"civic", c"prepared_events").is_none_or(pg::worker::lock_rows_if_free);
        if !is_free {
            return Ok(Look::Locked);
        }
        let rows = || Ok(pg::fresh_snapshot::planned(SQL, &[])?);
        let rows = catalog::with_own_table(PREPARED_EVENTS, rows)
            .map_err(|error| error.message())?
            .unwrap_or_default();
        let number = |column: usize| rows.first()?.get(column)?.as_ref()?.parse().ok();
        Ok(match (number(0), number(1)) {
            (Some(first), Some(last)) => Look::Waiting { first, last },
            _ => Look::Nothing,
        })
    };
    let found = pg::transaction::with_snapshot(|| {
        pg::subtransaction::attempt(read, |_, message| message.to_owned())
    });
    found.unwrap_or(Look::Nothing)
}
