//! NOTIFY, and how much of it the server still takes.

use std::cell::Cell;
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
pub fn queue_usage() -> f64 {
    // SAFETY: a function of the catalog that takes no argument and returns a double.
    unsafe { direct_function_call::<f64>(pg_sys::pg_notification_queue_usage, &[]) }
        .unwrap_or_default()
}

/// Bytes that the server's notification queue holds.
pub fn queue_size() -> usize {
    // Since PostgreSQL 17 a setting; 8 GiB before. The page size is that of the server's SLRUs.
    let pages = super::with_setting(c"max_notify_queue_pages", |pages| {
        pages.and_then(|pages| std::str::from_utf8(pages).ok()?.parse().ok())
    });
    pages.unwrap_or(1_048_576) * pg_sys::BLCKSZ as usize
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
