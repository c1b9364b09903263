//! A limit for all lock waits of one piece of work together.

use std::cell::Cell;
use std::ffi::CString;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    /// When a timer of this process was last started, whether or not it still runs
    /// (utils/timeout.h).
    fn get_timeout_start_time(timer: i32) -> pg_sys::TimestampTz;
}

/// The timer that the server starts at each wait for a lock, and not before (storage/lmgr/proc.c):
/// DEADLOCK_TIMEOUT, the same number in PostgreSQL 15 to 18.
const DEADLOCK_TIMER: i32 = 1;

/// When this process last began to wait for a lock.
fn last_wait() -> pg_sys::TimestampTz {
    // SAFETY: reads a variable of this process.
    unsafe { get_timeout_start_time(DEADLOCK_TIMER) }
}

/// The remaining time to wait for locks. PostgreSQL's own `lock_timeout` limits each wait
/// separately and restarts at the next lock.
pub struct LockBudget {
    left: Cell<Duration>,
    /// The session's own `lock_timeout` in milliseconds, if it is set.
    own: Option<u32>,
    /// The `lock_timeout` that is set now, in milliseconds.
    applied: Cell<u32>,
}

impl LockBudget {
    pub fn new(total: Duration) -> LockBudget {
        let own = super::guc::with_setting(c"lock_timeout", |value| {
            std::str::from_utf8(value?).ok()?.parse().ok().filter(|milliseconds| *milliseconds > 0)
        });
        LockBudget { left: Cell::new(total), own, applied: Cell::new(0) }
    }

    pub fn is_spent(&self) -> bool {
        self.left.get().is_zero()
    }

    /// Sets `lock_timeout` to the remaining time, or to the session's own if that is shorter. Call
    /// it only where the settings are restored afterwards.
    pub fn begin(&self) {
        self.applied.set(0);
        self.apply();
    }

    fn apply(&self) {
        let left = u32::try_from(self.left.get().as_millis()).unwrap_or(i32::MAX as u32).max(1);
        let limit = self.own.map_or(left, |own| own.min(left));
        if self.applied.replace(limit) != limit
            && let Ok(value) = CString::new(limit.to_string())
        {
            super::guc::set_for_now(c"lock_timeout", &value);
        }
    }

    /// Runs an action that may wait for locks. If it waited, its whole duration counts, also if it
    /// raises an error. Call [`LockBudget::begin`] first.
    pub fn spend<R>(&self, action: impl FnOnce() -> R) -> R {
        self.apply();
        let _spending = Spending { budget: self, start: Instant::now(), last_wait: last_wait() };
        action()
    }
}

/// What a wait leaves of a budget. `lock_timeout` counts whole milliseconds, so it ends a wait up to
/// a millisecond early: less than that is nothing.
fn remaining(left: Duration, waited: Duration) -> Duration {
    let left = left.saturating_sub(waited);
    if left < Duration::from_millis(1) { Duration::ZERO } else { left }
}

struct Spending<'a> {
    budget: &'a LockBudget,
    start: Instant,
    last_wait: pg_sys::TimestampTz,
}

impl Drop for Spending<'_> {
    fn drop(&mut self) {
        if last_wait() != self.last_wait {
            self.budget.left.set(remaining(self.budget.left.get(), self.start.elapsed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_the_timeout_ended_leaves_nothing() {
        // 150 ms were set for the 150.9 ms that were left.
        let left = remaining(Duration::from_micros(150_900), Duration::from_micros(150_100));
        assert_eq!(left, Duration::ZERO);
        let left = remaining(Duration::from_millis(200), Duration::from_millis(50));
        assert_eq!(left, Duration::from_millis(150));
        assert_eq!(remaining(Duration::from_millis(1), Duration::from_millis(5)), Duration::ZERO);
    }
}
