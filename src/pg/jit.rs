//! Just-in-time compilation of queries, which the server chooses by a query's estimated cost.

use pgrx::pg_sys;

/// Plans and runs queries without it. The extension's own queries read a few rows of the catalog, but
/// the planner's estimates of recursive ones are so high that the server spends 100 ms on compiling each.
pub fn without_jit<R>(body: impl FnOnce() -> R) -> R {
    let _restored = Restored(enabled());
    set_enabled(false);
    body()
}

struct Restored(bool);

impl Drop for Restored {
    fn drop(&mut self) {
        set_enabled(self.0);
    }
}

fn enabled() -> bool {
    // SAFETY: reads the variable behind the setting `jit`, which only this process's own thread uses.
    unsafe { pg_sys::jit_enabled }
}

fn set_enabled(enabled: bool) {
    // SAFETY: as `enabled`. The planner reads the variable each time it makes a plan.
    unsafe { pg_sys::jit_enabled = enabled }
}
