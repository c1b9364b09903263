//! The memory that the relay shares with the backends.

use std::ffi::c_void;
use std::mem::size_of;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use civic_queue::{Control, Queue};
use pgrx::{pg_guard, pg_sys};

unsafe extern "C-unwind" {
    /// Wakes the owner of a latch (storage/latch.h). It raises no error, so it needs no frame to
    /// catch one.
    fn SetLatch(latch: *mut pg_sys::Latch);
}

/// Why a transaction's events went out by ordinary NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FellBack {
    /// The queue had no room.
    QueueFull,
    /// The transaction's events are more than the queue holds.
    TooLarge,
    /// The relay is not running, or is starting anew.
    NotRunning,
    /// The relay serves another database.
    OtherDatabase,
    /// `civic.relay` is off.
    Off,
}

impl FellBack {
    pub const ALL: [(FellBack, &'static str); 5] = [
        (FellBack::QueueFull, "queue_full"),
        (FellBack::TooLarge, "too_large"),
        (FellBack::NotRunning, "not_running"),
        (FellBack::OtherDatabase, "other_database"),
        (FellBack::Off, "off"),
    ];
}

/// What all processes of the server see. All zeros is the state before the relay's first start.
#[derive(Default)]
#[repr(C)]
pub struct Shared {
    control: Control,
    /// The relay's process, or 0 while none takes events.
    pid: AtomicU32,
    /// The database that it serves.
    database: AtomicU32,
    /// The address of its latch.
    latch: AtomicUsize,
    /// Where the queue stood still while a transaction waited in vain for it to be told, plus one.
    pub given_up: AtomicU64,
    /// Up to where transactions wait, or have waited, for the queue to be told. A place and no count:
    /// a session that is ended while it waits leaves nothing behind.
    pub awaited: AtomicU64,
    /// Events that committed transactions have put into the queue, and those of them told.
    pub accepted: AtomicU64,
    pub delivered: AtomicU64,
    pub batches: AtomicU64,
    pub fell_back: [AtomicU64; FellBack::ALL.len()],
}

static MEMORY: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static WORDS: AtomicUsize = AtomicUsize::new(0);

/// The shared memory, where the library was preloaded.
pub fn shared() -> Option<&'static Shared> {
    // SAFETY: set once, before any backend was forked, to memory that lives as long as the server.
    unsafe { MEMORY.load(Ordering::Relaxed).as_ref() }
}

impl Shared {
    pub fn queue(&'static self) -> Queue<'static> {
        // SAFETY: the words stand behind `Shared` in the same allocation, aligned for it and for
        // them, zeroed when it was made.
        let words = unsafe {
            let first = std::ptr::from_ref(self).add(1).cast::<AtomicU64>();
            std::slice::from_raw_parts(first, WORDS.load(Ordering::Relaxed))
        };
        Queue::new(&self.control, words)
    }

    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// Whether the relay serves this backend's database; `None` while it has served none.
    pub fn is_this_database(&self) -> Option<bool> {
        // SAFETY: reads a variable of this backend.
        let own = unsafe { pg_sys::MyDatabaseId };
        let served = self.database.load(Ordering::Relaxed);
        (served != 0).then_some(served == own.to_u32())
    }

    /// Wakes the relay, if there is one.
    pub fn wake(&self) {
        let latch = self.latch.load(Ordering::Acquire) as *mut pg_sys::Latch;
        if !latch.is_null() {
            // SAFETY: the latch of a slot for a process, which lives as long as the server. To set
            // one that has meanwhile another owner wakes that one for nothing.
            unsafe { SetLatch(latch) };
        }
    }

    /// This process is the relay from now on, until it ends.
    pub fn take_over(&'static self) {
        // SAFETY: reads variables of this process, and registers a function that lives as long.
        unsafe {
            pg_sys::before_shmem_exit(Some(relay_ends), pg_sys::Datum::null());
            let own = pg_sys::MyDatabaseId.to_u32();
            let served = self.database.load(Ordering::Relaxed);
            if served != 0 && served != own {
                // That database was dropped, so all of its transactions have ended. What they left
                // is not for the listeners of the one that has its name now.
                self.queue().release(self.queue().head());
                self.delivered.store(self.accepted.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            self.given_up.store(0, Ordering::Relaxed);
            self.database.store(own, Ordering::Relaxed);
            self.latch.store(pg_sys::MyLatch as usize, Ordering::Release);
            self.pid.store(pg_sys::MyProcPid as u32, Ordering::Release);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn relay_ends(_code: i32, _argument: pg_sys::Datum) {
    if let Some(shared) = shared() {
        shared.pid.store(0, Ordering::Release);
        shared.latch.store(0, Ordering::Release);
    }
}

/// Asks for the memory. Call it while the library is preloaded.
pub fn request(queue_bytes: usize) {
    WORDS.store(queue_bytes / size_of::<u64>(), Ordering::Relaxed);
    // SAFETY: the hooks are called in turn, as each library that sets one keeps the one before; no
    // other thread is there.
    unsafe {
        #[cfg(not(feature = "pg14"))]
        {
            PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
            pg_sys::shmem_request_hook = Some(request_memory);
        }
        #[cfg(feature = "pg14")]
        pg_sys::RequestAddinShmemSpace(size());
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(make_memory);
    }
}

fn size() -> usize {
    size_of::<Shared>() + WORDS.load(Ordering::Relaxed) * size_of::<u64>()
}

#[cfg(not(feature = "pg14"))]
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

#[cfg(not(feature = "pg14"))]
#[pg_guard]
unsafe extern "C-unwind" fn request_memory() {
    // SAFETY: called by the server, once, at the time for it.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(size());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn make_memory() {
    // SAFETY: called by the server when its memory is there, and again after a crash, when it is
    // all new; the lock is the one that the server asks for around ShmemInitStruct.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(c"pg_civic relay".as_ptr(), size(), &mut found);
        if !found {
            std::ptr::write_bytes(memory.cast::<u8>(), 0, size());
        }
        MEMORY.store(memory.cast::<c_void>().cast(), Ordering::Relaxed);
        pg_sys::LWLockRelease(lock);
    }
}

/// AddinShmemInitLock's place among the server's locks (storage/lwlocknames.h), the same in
/// PostgreSQL 14 to 18.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;
