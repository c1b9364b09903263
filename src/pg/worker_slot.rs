//! A background worker as other processes see it, in shared memory.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    /// Wakes the owner of a latch (storage/latch.h). It raises no error, so it needs no error
    /// frame.
    fn SetLatch(latch: *mut pg_sys::Latch);
}

/// All zeros is the state before the worker's first start.
#[derive(Default)]
#[repr(C)]
pub struct WorkerSlot {
    /// The worker's process id, or 0 while there is none.
    pid: AtomicU32,
    /// The database that it serves or last served.
    database: AtomicU32,
    /// The address of its latch.
    latch: AtomicUsize,
    /// How often it was started since it last worked.
    starts: AtomicU32,
}

impl WorkerSlot {
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// How often the worker was started in vain: 0 while it works, and where the server has never started it.
    pub fn failed_starts(&self) -> u32 {
        self.starts.load(Ordering::Relaxed)
    }

    /// The database that it served last; `None` before its first start.
    pub(super) fn last_database(&self) -> Option<pg_sys::Oid> {
        let database = self.database.load(Ordering::Relaxed);
        (database != 0).then(|| database.into())
    }

    /// Counts a start. Gives how many before it were in vain.
    pub(super) fn count_start(&self) -> u32 {
        self.starts.fetch_add(1, Ordering::Relaxed)
    }

    /// The worker works. Gives how often it was started for that.
    pub(super) fn works(&self) -> u32 {
        self.starts.swap(0, Ordering::Relaxed)
    }

    /// Whether the worker serves this backend's database; `None` before its first start.
    pub fn is_this_database(&self) -> Option<bool> {
        // SAFETY: reads a variable of this backend.
        let own = unsafe { pg_sys::MyDatabaseId };
        let served = self.database.load(Ordering::Relaxed);
        (served != 0).then_some(served == own.to_u32())
    }

    /// Wakes the worker, if there is one.
    pub fn wake(&self) {
        let latch = self.latch.load(Ordering::Acquire) as *mut pg_sys::Latch;
        if !latch.is_null() {
            // SAFETY: latches of process slots live as long as the server. If the latch has another
            // owner by now, that process wakes up without need.
            unsafe { SetLatch(latch) };
        }
    }

    /// Registers this process as the worker.
    pub(super) fn begin(&self) {
        // SAFETY: reads variables of this process.
        unsafe {
            self.database.store(pg_sys::MyDatabaseId.to_u32(), Ordering::Relaxed);
            self.latch.store(pg_sys::MyLatch as usize, Ordering::Release);
            self.pid.store(pg_sys::MyProcPid as u32, Ordering::Release);
        }
    }

    pub(super) fn end(&self) {
        self.pid.store(0, Ordering::Release);
        self.latch.store(0, Ordering::Release);
    }
}
