//! `civic.realtime_rate` at the end of a transaction: at most so many messages a second for each municipality. What
//! exceeds it is reported in the next second by a background process, or, where that does not run, by the
//! transaction itself.

use std::cell::{Cell, RefCell};

use super::buffer::Buffer;
use super::rate::{self, Folded};
use super::realtime::Broadcast;
use crate::pg::shared::counters::{RealtimeLoss, count, count_at_commit};
use crate::pg::shared::{self, rates};
use crate::{pg, settings};

/// A second, in microseconds.
pub const SECOND: i64 = 1_000_000;

thread_local! {
    /// What the transaction has counted, to be handed over when it commits.
    static FOLDED: RefCell<Vec<Folded>> = const { RefCell::new(vec![]) };
    /// The transaction is prepared, so that nothing is known of its commit.
    static IS_PREPARED: Cell<bool> = const { Cell::new(false) };
    /// The transaction reports what was counted before.
    static IS_REPORT: Cell<bool> = const { Cell::new(false) };
}

/// Does something whose events are not limited: it reports what was.
pub fn unlimited<R>(action: impl FnOnce() -> R) -> R {
    IS_REPORT.set(true);
    let result = action();
    IS_REPORT.set(false);
    result
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
