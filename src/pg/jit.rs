//! What the server chooses by the estimates of a query: just-in-time compilation, and the size of hash tables.

use pgrx::pg_sys;

/// Plans and runs queries without JIT. The extension's own queries read a few catalog rows, but the
/// estimates of recursive queries are so high that the server would compile each for 100 ms.
pub fn without_jit<R>(body: impl FnOnce() -> R) -> R {
    let _restored = Restored(enabled());
    set_enabled(false);
    body()
}

/// Runs a query with the smallest `work_mem`, in kilobytes. A recursive query that reads a few rows would
/// otherwise clear a hash table of megabytes, which takes longer than the query.
pub fn with_small_tables<R>(body: impl FnOnce() -> R) -> R {
    const LEAST: i32 = 64;
    // SAFETY: the variable behind the setting `work_mem`, which only this process's main thread uses.
    let _restored = Memory(unsafe { pg_sys::work_mem });
    // SAFETY: as above.
    unsafe { pg_sys::work_mem = LEAST };
    body()
}

struct Memory(i32);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: as in `with_small_tables`.
        unsafe { pg_sys::work_mem = self.0 }
    }
}

struct Restored(bool);

impl Drop for Restored {
    fn drop(&mut self) {
        set_enabled(self.0);
    }
}

fn enabled() -> bool {
    // SAFETY: reads the variable behind the setting `jit`, which only this process's main thread
    // uses.
    unsafe { pg_sys::jit_enabled }
}

fn set_enabled(enabled: bool) {
    // SAFETY: as in `enabled`. The planner reads the variable for each plan.
    unsafe { pg_sys::jit_enabled = enabled }
}
