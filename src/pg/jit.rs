//! Just-in-time compilation of queries, which the server chooses by estimated cost.

use pgrx::pg_sys;

/// Plans and runs queries without JIT. The extension's own queries read a few catalog rows, but the
/// estimates of recursive queries are so high that the server would compile each for 100 ms.
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
    // SAFETY: reads the variable behind the setting `jit`, which only this process's main thread
    // uses.
    unsafe { pg_sys::jit_enabled }
}

fn set_enabled(enabled: bool) {
    // SAFETY: as in `enabled`. The planner reads the variable for each plan.
    unsafe { pg_sys::jit_enabled = enabled }
}
