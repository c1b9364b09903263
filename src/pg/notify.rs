//! NOTIFY, and the free room in the server's notification queue.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char};

use pgrx::{direct_function_call, pg_sys};

unsafe extern "C-unwind" {
    /// Queues a notification for the end of the current transaction (commands/async.h).
    fn Async_Notify(channel: *const c_char, payload: *const c_char);
}

/// Queues a notification. The caller has checked the lengths, so the server accepts it.
pub fn notify(channel: &CStr, payload: &CStr) {
    // SAFETY: both end in NUL and are copied; the boundary turns an ERROR into an unwinding panic.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| Async_Notify(channel.as_ptr(), payload.as_ptr()));
    }
}

/// The used share of the server's notification queue, from 0 to 1.
///
/// The queue fills up while a listening session stays in a transaction. When it is full, PostgreSQL
/// aborts every transaction that notifies, at its commit.
fn queue_usage() -> f64 {
    // SAFETY: a catalog function without arguments that returns a double.
    unsafe { direct_function_call::<f64>(pg_sys::pg_notification_queue_usage, &[]) }
        .unwrap_or_default()
}

/// The smallest size of the queue: `max_notify_queue_pages` is at least 64, and a page at least 1
/// kB.
const LEAST_QUEUE_SIZE: usize = 64 * 1024;

/// Size of the server's notification queue, in bytes.
fn queue_size() -> usize {
    // A setting since PostgreSQL 17, 8 GiB before. The pages are those of the server's SLRUs.
    let pages = super::guc::with_setting(c"max_notify_queue_pages", |pages| {
        pages.and_then(|pages| std::str::from_utf8(pages).ok()?.parse().ok())
    });
    pages.unwrap_or(1_048_576) * pg_sys::BLCKSZ as usize
}

/// Above this share of the server's notification queue nothing is sent: if the queue is full,
/// PostgreSQL aborts the transaction together with its ticket.
const QUEUE_SHARE: f64 = 0.9;
/// How long a check of the queue stays valid, in microseconds. A check takes a lock that all
/// backends share.
const CHECK_VALID_MICROS: u64 = 1_000_000;
/// The share of the queue, one part in this many, that a backend sends between two checks. A
/// hundred other backends that do the same at once stay within the rest that [`QUEUE_SHARE`]
/// leaves.
const CHECK_SHARE: usize = 1000;
/// Bytes that the server stores per event besides its text: header, terminators, alignment.
const ENTRY_OVERHEAD: usize = 32;

/// This backend's view of the queue.
#[derive(Default)]
struct Room {
    /// Free bytes at the last check.
    free: usize,
    /// Start time of the transaction that last checked.
    checked: i64,
    /// Bytes that this backend may send before the next check, and bytes that it has sent.
    allowance: usize,
    sent: usize,
    /// Bytes sent by this backend that the last check did not see: events enter the queue at the
    /// commit.
    unseen: usize,
    /// The current transaction, and the bytes that it has sent.
    transaction: u32,
    pending: usize,
    /// Whether there was no room for the last event. The next transaction then checks again.
    was_refused: bool,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Queues a notification if the server's queue has room for it; otherwise returns `false`.
pub fn notify_if_room(channel: &CStr, payload: &CStr) -> bool {
    let has_room = take_room(channel.count_bytes() + payload.count_bytes());
    if has_room {
        notify(channel, payload);
    }
    has_room
}

/// Approximate bytes of events for which the server's queue has room now. A notification never
/// crosses a page of that queue, so pages may be only half full.
pub fn room() -> usize {
    free_bytes() / 2
}

/// Whether one transaction cannot send this many bytes of events even if the server's queue is
/// empty.
pub fn is_too_much(bytes: usize) -> bool {
    // Each commit calls this, and reading the setting costs as much as handing over an event.
    bytes > LEAST_QUEUE_SIZE / 4 && bytes > queue_size() / 4
}

/// Reserves room in the server's queue for an event with texts of this many bytes; false if there
/// is none. The current transaction notifies the event later, or not at all.
pub fn take_room(size: usize) -> bool {
    // An event that does not fit into the rest of a page starts a new page, so it may take twice
    // its size.
    let size = 2 * (size + ENTRY_OVERHEAD);
    ROOM.with_borrow_mut(|room| {
        let now = super::transaction_start();
        let mut is_stale =
            now.abs_diff(room.checked) >= CHECK_VALID_MICROS || room.sent + size > room.allowance;
        if room.transaction != super::transaction_number() {
            room.transaction = super::transaction_number();
            room.pending = 0;
            is_stale |= room.was_refused;
        }
        if is_stale {
            room.free = free_bytes();
            room.allowance = queue_size() / CHECK_SHARE;
            room.checked = now;
            room.sent = 0;
            room.unseen = room.pending;
        }
        let has_room = room.unseen + size <= room.free;
        if has_room {
            room.sent += size;
            room.unseen += size;
            room.pending += size;
        }
        room.was_refused = !has_room;
        has_room
    })
}

fn free_bytes() -> usize {
    let free_share = (QUEUE_SHARE - queue_usage()).max(0.0);
    (free_share * queue_size() as f64) as usize
}

thread_local! {
    static WARNED: Cell<Option<pg_sys::LocalTransactionId>> = const { Cell::new(None) };
}

/// Whether this is the first warning in this transaction: a COPY of a million rows gives one
/// warning, not a million.
pub fn first_warning_of_transaction() -> bool {
    let transaction = Some(super::transaction_number());
    WARNED.replace(transaction) != transaction
}
