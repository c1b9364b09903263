//! NOTIFY, and how much of it the server still takes.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char};

use pgrx::{direct_function_call, pg_sys};

unsafe extern "C-unwind" {
    /// Queues a notification for the end of the current transaction (commands/async.h).
    fn Async_Notify(channel: *const c_char, payload: *const c_char);
}

/// Queues a notification. The caller has checked the lengths, so that it cannot be refused.
pub fn notify(channel: &CStr, payload: &CStr) {
    // SAFETY: both end in NUL and are copied; the boundary turns an ERROR into an unwinding panic.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| Async_Notify(channel.as_ptr(), payload.as_ptr()));
    }
}

/// The share of the server's notification queue that is in use, from 0 to 1.
///
/// The queue fills when a session listens and stays in a transaction. PostgreSQL then aborts every
/// transaction that notifies, at its commit.
fn queue_usage() -> f64 {
    // SAFETY: a function of the catalog that takes no argument and returns a double.
    unsafe { direct_function_call::<f64>(pg_sys::pg_notification_queue_usage, &[]) }
        .unwrap_or_default()
}

/// The least that `max_notify_queue_pages` can be: 64 pages, the smallest of 1 kB.
const LEAST_QUEUE_SIZE: usize = 64 * 1024;

/// Bytes that the server's notification queue holds.
fn queue_size() -> usize {
    // Since PostgreSQL 17 a setting; 8 GiB before. The page size is that of the server's SLRUs.
    let pages = super::guc::with_setting(c"max_notify_queue_pages", |pages| {
        pages.and_then(|pages| std::str::from_utf8(pages).ok()?.parse().ok())
    });
    pages.unwrap_or(1_048_576) * pg_sys::BLCKSZ as usize
}

/// Above this share of the server's notification queue nothing is sent any more: at the end of the
/// queue PostgreSQL would abort the transaction, ticket and all.
const QUEUE_SHARE: f64 = 0.9;
/// How long a look at the queue holds, in microseconds: the look takes a lock of all backends.
const LOOK_HOLDS: u64 = 1_000_000;
/// How much of the queue, one part in so many, this backend sends between two looks. A hundred
/// others that do the same, unseen, stay within what [`QUEUE_SHARE`] leaves free.
const LOOK_SHARE: usize = 1000;
/// What the server stores beside an event's own bytes: header, terminators, alignment.
const ENTRY_OVERHEAD: usize = 32;

/// What this backend knows of the queue.
#[derive(Default)]
struct Room {
    /// Free bytes at the last look.
    free: usize,
    /// When the transaction that looked began.
    looked: i64,
    /// Bytes that this backend may send before the next, and those that it has.
    allowance: usize,
    sent: usize,
    /// Bytes that it has sent, and that the look did not see: a transaction's events come into the
    /// queue at its commit.
    unseen: usize,
    /// The current transaction, and the bytes that it has sent.
    transaction: u32,
    pending: usize,
    /// Whether there was no room for the last event: the next transaction looks again.
    was_refused: bool,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Queues a notification where the server's queue has room for it; else gives `false`.
pub fn notify_if_room(channel: &CStr, payload: &CStr) -> bool {
    let has_room = take_room(channel.count_bytes() + payload.count_bytes());
    if has_room {
        notify(channel, payload);
    }
    has_room
}

/// Bytes of events, about, that the server's queue takes now. A notification never crosses a page of
/// that queue, so that pages may be no more than half full.
pub fn room() -> usize {
    free_bytes() / 2
}

/// Whether these are more bytes of events than one transaction may send and still find the room
/// for, once the server's queue is empty.
pub fn is_too_much(bytes: usize) -> bool {
    // Each commit asks, and to read a setting costs as much as to hand an event over.
    bytes > LEAST_QUEUE_SIZE / 4 && bytes > queue_size() / 4
}

/// Takes room in the server's queue for an event whose texts have so many bytes, where there is any. The
/// current transaction notifies it later, or not at all.
pub fn take_room(size: usize) -> bool {
    // An event that does not fit what is left of a page starts the next one: it may take its size
    // twice.
    let size = 2 * (size + ENTRY_OVERHEAD);
    ROOM.with_borrow_mut(|room| {
        let now = super::transaction_start();
        let mut is_stale =
            now.abs_diff(room.looked) >= LOOK_HOLDS || room.sent + size > room.allowance;
        if room.transaction != super::transaction_number() {
            room.transaction = super::transaction_number();
            room.pending = 0;
            is_stale |= room.was_refused;
        }
        if is_stale {
            room.free = free_bytes();
            room.allowance = queue_size() / LOOK_SHARE;
            room.looked = now;
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

/// Whether this is the first time in this transaction: a COPY of a million rows that cannot be
/// heard is one warning, not a million.
pub fn first_warning_of_transaction() -> bool {
    let transaction = Some(super::transaction_number());
    WARNED.replace(transaction) != transaction
}
