//! The memory that the workers share with the backends.

use std::ffi::c_void;
use std::mem::size_of;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use civic_queue::{Control, Queue};
use pgrx::{pg_guard, pg_sys};

use super::foreign;
use super::mailbox::{Answer, Mailbox};
use super::worker_slot::WorkerSlot;

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
    /// The relay. While there is none, no events are taken.
    pub relay: WorkerSlot,
    /// The worker that fetches media, the process that works on other people's tables for it, and
    /// what the one asks of the other.
    pub media: WorkerSlot,
    pub media_tables: WorkerSlot,
    pub mailbox: Mailbox,
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

    /// This process is the relay from now on, until it ends.
    pub fn take_over(&'static self) {
        // SAFETY: registers a function that lives as long as the process.
        unsafe {
            pg_sys::before_shmem_exit(Some(relay_ends), pg_sys::Datum::null());
            if self.relay.is_this_database() == Some(false) {
                // That database was dropped, so all of its transactions have ended. What they left
                // is not for the listeners of the one that has its name now.
                self.queue().release(self.queue().head());
                self.delivered.store(self.accepted.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            self.given_up.store(0, Ordering::Relaxed);
        }
        self.relay.begin();
    }

    /// This process is the media worker from now on, until it ends.
    pub fn take_over_media(&'static self) {
        // SAFETY: registers a function that lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(media_worker_ends), pg_sys::Datum::null()) };
        self.media.begin();
        // What the worker before has asked for, and nobody has begun, is asked for anew.
        self.mailbox.withdraw();
    }

    /// This process works on other people's tables for the media worker from now on, until it ends.
    pub fn take_over_media_tables(&'static self) {
        // SAFETY: registers a function that lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(media_tables_ends), pg_sys::Datum::null()) };
        self.media_tables.begin();
        self.media.wake();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn relay_ends(_code: i32, _argument: pg_sys::Datum) {
    if let Some(shared) = shared() {
        shared.relay.end();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn media_worker_ends(_code: i32, _argument: pg_sys::Datum) {
    if let Some(shared) = shared() {
        shared.media.end();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn media_tables_ends(_code: i32, _argument: pg_sys::Datum) {
    let Some(shared) = shared() else { return };
    // SAFETY: as the server does it itself when it removes temporary tables at this point. The job's
    // row is no longer locked then, when the media worker learns of it.
    unsafe { pg_sys::AbortOutOfAnyTransaction() };
    shared.media_tables.end();
    shared.mailbox.abandon(if foreign::is_given_up() { Answer::GIVEN_UP } else { Answer::LOST });
    shared.media.wake();
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
