//! Counters in shared memory, for as long as the server runs: what monitoring reads.
//!
//! They have no label that grows with the data. Without preloading there are none.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared;
use crate::pg::transaction::{self, Observer};

/// Defines the values of a label, each with its text.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant,)* }

        impl $name {
            pub const ALL: [$name; [$($text),*].len()] = [$($name::$variant),*];

            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

label!(
    /// Why events did not reach Supabase Realtime.
    RealtimeLoss {
        LockTimeout = "lock_timeout",
        NoTable = "no_table",
        NoFunction = "no_function",
        ForeignFunction = "foreign_function",
        Unguarded = "unguarded",
        NoPartition = "no_partition",
        CodeOfOthers = "code_of_others",
        Overtaken = "overtaken",
        EndlessChanges = "endless_changes",
        Raised = "raised",
        NotStored = "not_stored",
        RateLimit = "rate_limit",
    }
);

label!(
    /// How an attempt at a media job ended.
    AttemptEnd {
        Stored = "stored",
        Moved = "moved",
        Clean = "clean",
        Failed = "failed",
        Cancelled = "cancelled",
        Postponed = "postponed",
        Released = "released",
        Interrupted = "interrupted",
    }
);

label!(
    /// Why an attempt at a media job failed.
    ErrorClass {
        Unreachable = "unreachable",
        TimedOut = "timed_out",
        CutShort = "cut_short",
        Busy = "busy",
        ServerError = "server_error",
        Malformed = "malformed",
        NotFound = "not_found",
        Conflict = "conflict",
        Unauthorized = "unauthorized",
        TooLarge = "too_large",
        UnsupportedType = "unsupported_type",
        RefusedHost = "refused_host",
        Certificate = "certificate",
        Rejected = "rejected",
        Invalid = "invalid",
        Ticket = "ticket",
        Attachments = "attachments",
        Internal = "internal",
    }
);

label!(
    /// The state in which a media job ended.
    JobEnd {
        Done = "done",
        Failed = "failed",
        Cancelled = "cancelled",
    }
);

/// Kinds of media jobs, and guarded buckets. The modules that define them hold these numbers.
pub const KINDS: usize = 2;
pub const BUCKETS: usize = 3;

const MINUTES: usize = 60;

/// A count for each minute of the last hour. A minute is in the upper half of its place, its count in the lower.
#[repr(C)]
pub struct Minutes([AtomicU64; MINUTES]);

impl Default for Minutes {
    fn default() -> Minutes {
        Minutes([const { AtomicU64::new(0) }; MINUTES])
    }
}

impl Minutes {
    /// Adds to a minute, numbered from anywhere. One that is an hour ago makes room.
    fn add(&self, minute: u32, number: u64) {
        let place = &self.0[minute as usize % MINUTES];
        let add = |value: u64| {
            let before = if (value >> 32) as u32 == minute { value as u32 } else { 0 };
            let count = before.saturating_add(u32::try_from(number).unwrap_or(u32::MAX));
            Some(u64::from(minute) << 32 | u64::from(count))
        };
        let _ = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// The highest count of the hour that ends with this minute.
    fn highest(&self, minute: u32) -> u32 {
        let counts = self.0.iter().map(|place| place.load(Ordering::Relaxed));
        let is_recent = |value: &u64| minute.wrapping_sub((value >> 32) as u32) < MINUTES as u32;
        counts.filter(is_recent).map(|value| value as u32).max().unwrap_or(0)
    }
}

/// Minutes since 2000-01-01 UTC.
fn minute() -> u32 {
    (transaction::now() / 60_000_000) as u32
}

/// How many events were stored for Realtime in the busiest minute of the last hour; `None` without preloading.
pub fn busiest_realtime_minute() -> Option<u32> {
    shared().map(|shared| shared.counters.realtime_minutes.highest(minute()))
}

/// All zeros is the state at the server's start.
#[derive(Default)]
#[repr(C)]
pub struct Counters {
    /// Bytes of the events that the relay has delivered, channel and payload.
    pub relay_bytes: AtomicU64,
    /// Events that went out by ordinary NOTIFY, and events that could not be notified in either way.
    pub notified: AtomicU64,
    pub notify_lost: AtomicU64,
    /// Events that were stored for Supabase Realtime, and events that were not.
    pub realtime_sent: AtomicU64,
    pub realtime_lost: [AtomicU64; RealtimeLoss::ALL.len()],
    /// What Realtime was sent in each minute of the last hour.
    pub realtime_minutes: Minutes,
    /// Events that report counted changes of tickets, and these changes.
    pub bulk_events: AtomicU64,
    pub bulk_changes: AtomicU64,
    /// Changes that were counted because of `civic.realtime_rate`.
    pub realtime_folded: AtomicU64,
    pub media_attempts: [[AtomicU64; AttemptEnd::ALL.len()]; KINDS],
    pub media_errors: [AtomicU64; ErrorClass::ALL.len()],
    pub media_ended: [[AtomicU64; JobEnd::ALL.len()]; KINDS],
    /// Bytes of files that are stored, by the attempt that has stored them, and files moved.
    pub media_bytes: AtomicU64,
    pub media_moved: AtomicU64,
    pub refused_uploads: [AtomicU64; BUCKETS],
    /// Findings of the last whole check that were not ok, and when that was, in microseconds since 2000-01-01
    /// UTC; 0 before the first one.
    pub checks_failing: AtomicU64,
    pub checked_at: AtomicU64,
}

/// Records what a whole check has found.
pub fn record_check(failing: usize) {
    if let Some(shared) = shared() {
        shared.counters.checks_failing.store(failing as u64, Ordering::Relaxed);
        shared.counters.checked_at.store(transaction::now() as u64, Ordering::Relaxed);
    }
}

/// Counts now, whatever becomes of the transaction.
pub fn count(choose: impl FnOnce(&'static Counters) -> &'static AtomicU64, number: usize) {
    if let Some(shared) = shared() {
        choose(&shared.counters).fetch_add(number as u64, Ordering::Relaxed);
    }
}

/// What the current transaction adds to counters. It has room for the few that one transaction has, so that
/// counting allocates nothing: a transaction that is about to commit must not fail.
struct AtCommit {
    counts: [(Option<&'static AtomicU64>, u64); 32],
}

thread_local! {
    static AT_COMMIT: RefCell<AtCommit> = const { RefCell::new(AtCommit { counts: [(None, 0); 32] }) };
}

impl AtCommit {
    fn add(&mut self, counter: &'static AtomicU64, number: u64) {
        let is_its = |(it, _): &&mut (Option<&'static AtomicU64>, u64)| {
            it.is_none_or(|it| std::ptr::eq(it, counter))
        };
        match self.counts.iter_mut().find(is_its) {
            Some(place) => *place = (Some(counter), place.1 + number),
            // More than any transaction counts; better early than never.
            None => _ = counter.fetch_add(number, Ordering::Relaxed),
        }
    }

    fn take(&mut self) -> impl Iterator<Item = (&'static AtomicU64, u64)> {
        self.counts.iter_mut().map_while(|place| {
            let (counter, number) = std::mem::take(place);
            Some((counter?, number))
        })
    }
}

/// Counts when the transaction commits.
pub fn count_at_commit(
    choose: impl FnOnce(&'static Counters) -> &'static AtomicU64,
    number: usize,
) {
    if let Some(shared) = shared().filter(|_| number > 0) {
        let counter = choose(&shared.counters);
        AT_COMMIT.with_borrow_mut(|counts| counts.add(counter, number as u64));
    }
}

/// Observes the ends of transactions for [`count_at_commit`].
pub struct Counted;

impl Observer for Counted {
    fn before_commit() {}

    fn before_prepare() {}

    fn prepared() {
        Counted::committed();
    }

    fn committed() {
        AT_COMMIT.with_borrow_mut(|counts| {
            for (counter, number) in counts.take() {
                counter.fetch_add(number, Ordering::Relaxed);
                if let Some(shared) = shared()
                    && std::ptr::eq(counter, &shared.counters.realtime_sent)
                {
                    shared.counters.realtime_minutes.add(minute(), number);
                }
            }
        });
    }

    fn aborted() {
        AT_COMMIT.with_borrow_mut(|counts| counts.take().for_each(drop));
    }

    fn subtransaction_committed(_level: i32) {}

    fn subtransaction_aborted(_level: i32) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_minute_is_one_of_the_last_hour() {
        let minutes = Minutes::default();
        assert_eq!(minutes.highest(1000), 0);
        for (minute, number) in [(1000, 5), (1000, 6), (1030, 7), (1059, 1)] {
            minutes.add(minute, number);
        }
        assert_eq!([1059, 1060, 1090].map(|now| minutes.highest(now)), [11, 7, 1]);
        minutes.add(1060, 2);
        assert_eq!((minutes.highest(1060), minutes.highest(1120)), (7, 0));
        minutes.add(1060, u64::MAX);
        assert_eq!(minutes.highest(1060), u32::MAX);
    }

    #[test]
    fn counts_of_a_counter_add_up_and_are_taken_once() {
        static COUNTERS: [AtomicU64; 40] = [const { AtomicU64::new(0) }; 40];
        let mut counts = AtCommit { counts: [(None, 0); 32] };
        for counter in &COUNTERS {
            counts.add(counter, 1);
            counts.add(counter, 2);
        }
        let early = COUNTERS.iter().map(|it| it.load(Ordering::Relaxed)).sum::<u64>();
        assert_eq!(early, 3 * 8, "those without a place");
        assert_eq!(counts.take().map(|(_, number)| number).collect::<Vec<_>>(), [3; 32]);
        assert_eq!(counts.take().count(), 0);
    }
}
