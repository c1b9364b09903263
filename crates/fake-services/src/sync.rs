//! Flags and locks that the threads of a server share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Blocks threads until it is opened, for at most a minute.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Stop>);

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    pub fn open(&self) {
        self.0.set();
    }

    pub fn wait(&self) {
        self.0.sleep(Duration::from_secs(60));
    }
}

/// A flag that threads can wait for.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub fn set(&self) {
        *lock(&self.is_set) = true;
        self.changed.notify_all();
    }

    pub fn is_set(&self) -> bool {
        *lock(&self.is_set)
    }

    /// Sleeps. False if the flag was set before the time was over.
    pub fn sleep(&self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        let mut is_set = lock(&self.is_set);
        while !*is_set {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(is_set, rest);
            is_set = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        false
    }

    pub fn wait(&self) {
        while self.sleep(Duration::from_secs(3600)) {}
    }
}

/// Locks a mutex, also after another test thread panicked with the lock held.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
