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

/// Bytes that the server's notification queue holds.
fn queue_size() -> usize {
    // Since PostgreSQL 17 a setting; 8 GiB before. The page size is that of the server's SLRUs.
    let pages = super::with_setting(c"max_notify_queue_pages", |pages| {
        pages.and_then(|pages| std::str::from_utf8(pages).ok()?.parse().ok())
    });
    pages.unwrap_or(1_048_576) * pg_sys::BLCKSZ as usize
}

/// Above this share of the server's notification queue nothing is sent any more: at the end of the
/// queue PostgreSQL would abort the transaction, ticket and all.
const QUEUE_SHARE: f64 = 0.9;
/// How long a look at the queue holds, in microseconds: the look takes a lock of all backends.
const LOOK_HOLDS: u64 = 1_000_000;
/// What the server stores beside an event's own bytes: header, terminators, alignment.
const ENTRY_OVERHEAD: usize = 32;

/// How much this backend may still send.
#[derive(Clone, Copy)]
struct Budget {
    bytes: usize,
    /// When the transaction that looked began, and the one that sent last.
    looked: i64,
    sent: i64,
}

thread_local! {
    static BUDGET: RefCell<Option<Budget>> = const { RefCell::new(None) };
}

/// Queues a notification where the server's queue has room for it; else gives `false`.
pub fn notify_if_room(channel: &CStr, payload: &CStr) -> bool {
    let has_room = take_room(channel.count_bytes() + payload.count_bytes() + ENTRY_OVERHEAD);
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

/// Bytes of events that one transaction may send and still find the room for, once the server's
/// queue is empty.
pub fn longest() -> usize {
    queue_size() / 4
}

fn take_room(size: usize) -> bool {
    BUDGET.with_borrow_mut(|budget| {
        let now = super::transaction_start();
        // What a transaction has sent is not in the queue before it commits: one look for each.
        let is_current = |budget: &Budget| {
            budget.sent == now || (size <= budget.bytes && now.abs_diff(budget.looked) < LOOK_HOLDS)
        };
        let mut current = budget.filter(is_current).unwrap_or_else(|| Budget {
            bytes: free_bytes(),
            looked: now,
            sent: now,
        });
        let has_room = size <= current.bytes;
        if has_room {
            current.bytes -= size;
        }
        *budget = Some(Budget { sent: now, ..current });
        has_room
    })
}

fn free_bytes() -> usize {
    let free_share = (QUEUE_SHARE - queue_usage()).max(0.0);
    (free_share * queue_size() as f64) as usize
}

thread_local! {
    static WARNED: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Whether this is the first time in this transaction: a COPY of a million rows that cannot be
/// heard is one warning, not a million.
pub fn first_warning_of_transaction() -> bool {
    let transaction = Some(super::transaction_start());
    WARNED.replace(transaction) != transaction
}
