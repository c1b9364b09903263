//! The memory that workers and backends share.

pub mod counters;
pub mod rates;

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem::size_of;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use civic_queue::{Control, Queue};
use pgrx::{pg_guard, pg_sys};

use self::counters::Counters;
use self::rates::Rates;
use super::foreign;
use super::mailbox::{Answer, Mailbox};
use super::worker_slot::WorkerSlot;

/// Why a transaction's events went out by ordinary NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FellBack {
    /// The queue had no room.
    QueueFull,
    /// The transaction's events are larger than the queue.
    TooLarge,
    /// The relay is not running, or is restarting.
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

/// The state that all processes of the server share. All zeros is the state before the relay's
/// first start.
#[repr(C)]
pub struct Shared {
    control: Control,
    /// The relay. Without it the queue takes no events.
    pub relay: WorkerSlot,
    /// The worker that fetches media, the process that works on tables of other roles for it, and
    /// the requests between them.
    pub media: WorkerSlot,
    pub media_tables: WorkerSlot,
    pub mailbox: Mailbox,
    /// The queue position, plus one, at which a transaction timed out waiting for delivery.
    pub given_up: AtomicU64,
    /// The queue position up to which transactions wait, or have waited, for delivery. A position,
    /// not a count: a session that is terminated while it waits leaves nothing to undo.
    pub awaited: AtomicU64,
    /// How many transactions with events were prepared, and how many of them had been when the relay last
    /// found that none is left.
    prepared: AtomicU64,
    prepared_settled: AtomicU64,
    /// The transaction that another one has waited for in vain, in the table of their events.
    pub prepared_given_up: AtomicI64,
    /// Names the queue: when something first asked. 0 until then.
    pub queue_id: AtomicU64,
    /// Events that committed transactions put into the queue, and how many of them were delivered.
    pub accepted: AtomicU64,
    pub delivered: AtomicU64,
    pub batches: AtomicU64,
    pub fell_back: [AtomicU64; FellBack::ALL.len()],
    pub counters: Counters,
    /// Guarded by a lock: see [`rates::with`].
    rates: UnsafeCell<Rates>,
}

static MEMORY: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static WORDS: AtomicUsize = AtomicUsize::new(0);

/// The shared memory, if the library was preloaded.
pub fn shared() -> Option<&'static Shared> {
    // SAFETY: set once, before any backend was forked, to memory that lives as long as the server.
    unsafe { MEMORY.load(Ordering::Relaxed).as_ref() }
}

impl Shared {
    pub fn queue(&'static self) -> Queue<'static> {
        // SAFETY: the words follow `Shared` in the same allocation, aligned for both, zeroed when
        // it was made.
        let words = unsafe {
            let first = std::ptr::from_ref(self).add(1).cast::<AtomicU64>();
            std::slice::from_raw_parts(first, WORDS.load(Ordering::Relaxed))
        };
        Queue::new(&self.control, words)
    }

    /// Events of one more prepared transaction wait in their table, or may wait there since before the
    /// server's start.
    pub fn note_prepared(&self) {
        self.prepared.fetch_add(1, Ordering::Release);
    }

    /// Whether events of prepared transactions may wait in their table.
    pub fn may_have_prepared(&self) -> bool {
        self.prepared() != self.prepared_settled.load(Ordering::Acquire)
    }

    /// How many transactions with events were prepared, to be given to [`Shared::settle_prepared`].
    pub fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Acquire)
    }

    /// None is left of the first so many.
    pub fn settle_prepared(&self, prepared: u64) {
        self.prepared_settled.store(prepared, Ordering::Release);
    }

    /// Registers this process as the relay until it ends. Gives whether there was one before it.
    pub fn take_over(&'static self) -> bool {
        let is_restart = self.relay.last_database().is_some();
        // SAFETY: registers a function that lives as long as the process.
        unsafe {
            pg_sys::before_shmem_exit(Some(relay_ends), pg_sys::Datum::null());
            if self.relay.is_this_database() == Some(false) {
                // The previous database was dropped, so all of its transactions have ended. Its
                // events must not reach listeners of a new database of the same name.
                self.queue().release(self.queue().head());
                self.delivered.store(self.accepted.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            self.given_up.store(0, Ordering::Relaxed);
            self.prepared_given_up.store(0, Ordering::Relaxed);
        }
        self.relay.begin();
        is_restart
    }

    /// Registers this process as the media worker until it ends.
    pub fn take_over_media(&'static self) {
        // SAFETY: registers a function that lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(media_worker_ends), pg_sys::Datum::null()) };
        self.media.begin();
        // A request of the previous worker that was not taken is sent again later.
        self.mailbox.withdraw();
    }

    /// Registers this process as the media tables process until it ends.
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
    // SAFETY: the server does the same at this point when it removes temporary tables. The lock on
    // the job's row must be released before the media worker gets the answer.
    unsafe { pg_sys::AbortOutOfAnyTransaction() };
    shared.media_tables.end();
    shared.mailbox.abandon(if foreign::is_given_up() { Answer::GIVEN_UP } else { Answer::LOST });
    shared.media.wake();
}

/// Requests the memory. Call it while the library is preloaded.
pub fn request(queue_bytes: usize) {
    WORDS.store(queue_bytes / size_of::<u64>(), Ordering::Relaxed);
    // SAFETY: each library that sets a hook keeps and calls the previous one; there is no other
    // thread.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request_memory);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(make_memory);
    }
}

fn size() -> usize {
    size_of::<Shared>() + WORDS.load(Ordering::Relaxed) * size_of::<u64>()
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

#[pg_guard]
unsafe extern "C-unwind" fn request_memory() {
    // SAFETY: the server calls this once, when memory may be requested.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(size());
        rates::request();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn make_memory() {
    // SAFETY: the server calls this when its memory exists, and again after a crash, with new
    // memory. The lock is the one that ShmemInitStruct requires.
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
        rates::find_lock();
        MEMORY.store(memory.cast::<c_void>().cast(), Ordering::Relaxed);
        pg_sys::LWLockRelease(lock);
    }
}

/// AddinShmemInitLock's place among the server's locks (storage/lwlocknames.h), the same in
/// PostgreSQL 15 to 18.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;
