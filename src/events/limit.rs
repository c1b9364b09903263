//! `civic.realtime_rate` at the end of a transaction: at most so many messages a second for each municipality. What
//! exceeds it is reported in the next second by a background process, or, where that does not run, by the
//! transaction itself.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use pgrx::PgLogLevel;
use pgrx::prelude::*;

use super::buffer::{Buffer, Flags};
use super::rate::{self, Folded};
use super::realtime::Broadcast;
use super::transaction;
use crate::pg::shared::counters::{RealtimeLoss, count, count_at_commit};
use crate::pg::shared::{self, rates};
use crate::{pg, settings};

/// Microseconds.
const SECOND: i64 = 1_000_000;

thread_local! {
    /// What the transaction has counted, to be handed over when it commits.
    static FOLDED: RefCell<Vec<Folded>> = const { RefCell::new(vec![]) };
    /// The transaction is prepared, so that nothing is known of its commit.
    static IS_PREPARED: Cell<bool> = const { Cell::new(false) };
    /// The transaction reports what was counted before.
    static IS_REPORT: Cell<bool> = const { Cell::new(false) };
}

fn second() -> i64 {
    pg::transaction::now() / SECOND
}

/// Whether a process runs that reports in the next second.
fn is_reported_later() -> bool {
    !IS_PREPARED.get()
        && shared::shared().is_some_and(|shared| {
            let reporter = &shared.media_tables;
            reporter.pid().is_some() && reporter.is_this_database() == Some(true)
        })
}

/// Takes the events for Realtime that exceed the rate, from a position on, out of what is sent.
pub fn apply(events: &mut Buffer, start: usize, broadcast: &Broadcast) {
    let Some(rate) = settings::realtime_rate().filter(|_| !IS_REPORT.get()) else { return };
    let second = second();
    let take = |municipality: &[u8]| rates::with(|rates| rates.take(municipality, second, rate));
    let folded = rate::fold(events, start, |flags| broadcast.wants(flags), take);
    if folded.is_empty() {
        return;
    }
    let changes = folded.iter().map(Folded::total).sum();
    count_at_commit(|counters| &counters.realtime_folded, changes);
    if is_reported_later() {
        FOLDED.with_borrow_mut(|waiting| waiting.extend(folded));
    } else if rate::report_now(events, &folded, pg::transaction_start()).is_err() {
        count_at_commit(
            |counters| &counters.realtime_lost[RealtimeLoss::RateLimit as usize],
            changes,
        );
    }
}

/// The transaction is about to be prepared: it reports itself.
pub fn report_within_transaction() {
    IS_PREPARED.set(true);
}

/// Nothing of the transaction is reported.
pub fn forget() {
    FOLDED.take();
    IS_PREPARED.set(false);
}

/// The transaction has committed: the changes that it has counted wait for the next second.
pub fn hand_over() {
    let folded = FOLDED.take();
    let Some(shared) = shared::shared().filter(|_| !folded.is_empty()) else { return };
    let second = second();
    let lost: usize = rates::with(|rates| {
        let is_lost = |it: &&Folded| !rates.add(&it.municipality, second, &it.changes);
        folded.iter().filter(is_lost).map(Folded::total).sum()
    });
    count(|counters| &counters.realtime_lost[RealtimeLoss::RateLimit as usize], lost);
    shared.media_tables.wake();
}

/// Reports what has waited for this second. Gives how long to wait for the next one; `None` if nothing waits.
pub fn report() -> Option<Duration> {
    if !rates::are_shared() || !rates::with(|rates| rates.has_waiting()) {
        return None;
    }
    let now = pg::transaction::now();
    let second = now / SECOND;
    let due = rates::with(|rates| rates.take_due(second));
    if !due.is_empty() {
        IS_REPORT.set(true);
        let sent = pg::worker::transaction(|| {
            for waiting in &due {
                let reports =
                    rate::reports(&waiting.municipality, &waiting.changes, pg::transaction_start());
                for (channel, event) in reports {
                    let flags = Flags::REALTIME.with(Flags::BULK);
                    transaction::keep(flags, 0, &channel, &event)
                        .unwrap_or_else(|error| error.raise());
                }
            }
        });
        IS_REPORT.set(false);
        if let Err((_, message)) = sent {
            rates::with(|rates| {
                for waiting in &due {
                    rates.add(&waiting.municipality, second, &waiting.changes);
                }
            });
            ereport!(
                PgLogLevel::LOG,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("changes beyond civic.realtime_rate are reported later: {message}")
            );
        }
    }
    let rest = u64::try_from(SECOND - now.rem_euclid(SECOND)).unwrap_or_default();
    Some(Duration::from_micros(rest + 1000))
}
