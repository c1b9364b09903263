//! NOTIFY without the commit lock (docs/architecture.md, decision 6). A transaction hands its
//! events to a background worker through shared memory, and the worker notifies in batches.

pub mod drain;
pub mod frame;
pub mod prepared;
pub mod transaction;
pub mod worker;

use std::sync::atomic::Ordering;

use pgrx::JsonB;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::pg::shared::{self, FellBack};
use crate::{pg, settings};

/// Prepares the relay. Call it while the library is preloaded.
pub fn initialize() {
    shared::request(settings::relay_queue_bytes());
    pg::transaction::observe::<transaction::Relayed>();
    pg::transaction::observe::<prepared::Stored>();
    worker::register();
}

#[pg_schema]
mod civic {
    use super::*;

    /// The state of the relay, in one row.
    #[pg_extern(volatile, parallel_safe, cost = 10)]
    #[allow(clippy::type_complexity)]
    fn relay_stats() -> TableIterator<
        'static,
        (
            name!(running, bool),
            name!(pid, Option<i32>),
            name!(queued, i64),
            name!(delivered, i64),
            name!(batches, i64),
            name!(fell_back, JsonB),
            name!(queue_bytes_used, i64),
            name!(queue_bytes_highest, i64),
            name!(queue_bytes, i64),
            name!(oldest_waiting_ms, Option<i64>),
        ),
    > {
        let Some(shared) = shared::shared() else {
            let none = JsonB(serde_json::json!({}));
            return TableIterator::once((false, None, 0, 0, 0, none, 0, 0, 0, None));
        };
        let count = |(reason, name): (FellBack, &str)| {
            let count = shared.fell_back[reason as usize].load(Ordering::Relaxed);
            (name.to_owned(), count.into())
        };
        let queue = shared.queue();
        let delivered = shared.delivered.load(Ordering::Relaxed);
        let accepted = shared.accepted.load(Ordering::Relaxed);
        let pid = shared.relay.pid().map(|pid| pid as i32);
        TableIterator::once((
            pid.is_some(),
            pid,
            accepted.saturating_sub(delivered) as i64,
            delivered as i64,
            shared.batches.load(Ordering::Relaxed) as i64,
            JsonB(serde_json::Value::Object(FellBack::ALL.into_iter().map(count).collect())),
            queue.used() as i64,
            queue.highest() as i64,
            queue.size() as i64,
            queue.oldest().map(|since| (pg::transaction::now() - since as i64).max(0) / 1000),
        ))
    }
}
