//! Media of tickets: WhatsApp files are fetched from Twilio into the bucket where they belong, and the files
//! of a ticket that becomes sensitive are moved to the restricted one.

mod error;
pub mod job;
mod process;
mod sql;
pub mod store;
pub mod tables;
mod target;
mod transfer;
mod worker;

pub use error::MediaError;

use std::cell::Cell;

use crate::pg::shared;
use crate::pg::transaction::{Observer, observe as observe_transactions};
use crate::tickets::transitions;

/// Prepares the worker and its helper. Call it while the library is preloaded.
pub fn initialize() {
    worker::register();
    tables::register();
}

/// Observes the ends of this process's transactions. Call it before [`crate::events::initialize`]: the
/// observer that is registered last is called first, and it can change tickets.
pub fn observe() {
    observe_transactions::<Queue>();
}

thread_local! {
    /// Whether the current transaction adds or changes jobs.
    static IS_CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// Wakes the worker when the transaction has committed, and its jobs are visible.
fn wake_worker_at_commit() {
    IS_CHANGED.set(true);
}

/// What the end of a transaction means for the queue.
struct Queue;

impl Observer for Queue {
    fn before_commit() {
        store::restrict_tickets();
    }

    fn before_prepare() {
        store::restrict_tickets();
    }

    fn committed() {
        transitions::forget();
        if IS_CHANGED.take()
            && let Some(shared) = shared::shared()
        {
            shared.media.wake();
        }
    }

    fn aborted() {
        transitions::forget();
        IS_CHANGED.set(false);
    }

    fn subtransaction_committed(level: i32) {
        transitions::subtransaction_committed(level);
    }

    fn subtransaction_aborted(level: i32) {
        transitions::subtransaction_aborted(level);
    }
}
