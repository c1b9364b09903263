//! The relay: the background worker that issues NOTIFY.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use civic_queue::Next;
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::prelude::*;

use super::frame::events;
use crate::pg::shared::{self, Shared};
use crate::{pg, settings};

/// Approximate bytes of events in one batch.
const BATCH: usize = 256 * 1024;
/// Time between two checks when there is nothing to do. A new event also wakes it.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// The longest time that it lets transactions gather under load: each batch wakes every listener of
/// the database, on any channel.
const GATHER_TIMEOUT: Duration = Duration::from_millis(50);
/// How often it checks meanwhile whether a session waits.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long it waits for the server's queue to drain when that is nearly full.
const QUEUE_FULL_BACKOFF: Duration = Duration::from_secs(1);

pub fn register() {
    pg::worker::register("pg_civic relay", "civic_relay_main");
}

/// The worker's main function. The server starts it again a second after it ends.
#[allow(unsafe_code)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn civic_relay_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(Some(&settings::database()), None);
    let Some(shared) = shared::shared() else { return };
    pg::transaction::commit_without_waiting();
    shared.take_over();
    run(shared);
    // After pg_terminate_backend() or DROP DATABASE … (FORCE) the worker must start again.
    pg::end_process_to_be_restarted();
}

fn run(shared: &'static Shared) {
    while !pg::transaction::is_shutdown_requested() {
        if BackgroundWorker::sighup_received() {
            pg::guc::reload_settings();
        }
        let transactions = deliver(shared);
        let time = match transactions {
            0 if shared.queue().used() == 0 => IDLE_INTERVAL,
            // The transaction has not ended yet and will wake the relay, or the server's queue is
            // full.
            0 => QUEUE_FULL_BACKOFF,
            // A single client's events leave at once. Events of many clients gather, longer the
            // more there are.
            1..=2 => Duration::ZERO,
            many => Duration::from_millis(many).min(GATHER_TIMEOUT),
        };
        pause(shared, transactions, time);
    }
    // Deliver everything that is committed so far.
    let end = shared.queue().head();
    while shared.queue().tail() < end && deliver(shared) > 0 {}
}

/// Pauses between batches. After a batch it waits the whole time; with nothing to do any event
/// wakes it.
fn pause(shared: &'static Shared, transactions: u64, time: Duration) {
    if transactions == 0 {
        return pg::transaction::wait(time);
    }
    let end = std::time::Instant::now() + time;
    while let Some(left) = end.checked_duration_since(std::time::Instant::now())
        && !left.is_zero()
        && shared.awaited.load(Ordering::Relaxed) <= shared.queue().tail()
        && shared.queue().used() < shared.queue().size() / 2
        && !pg::transaction::is_shutdown_requested()
    {
        std::thread::sleep(left.min(POLL_INTERVAL));
    }
}

/// Notifies the next transactions' events in one transaction. Returns the number of transactions.
///
/// NOTIFY folds equal events of one transaction. So an event equal to one of another transaction in
/// this batch starts the next batch: it is received as often as it was sent.
fn deliver(shared: &'static Shared) -> u64 {
    let queue = shared.queue();
    let (mut place, mut frame) = (queue.tail(), Vec::new());
    let mut batch: Vec<Vec<u8>> = vec![];
    let (mut sent, mut bytes, mut count) = (HashSet::new(), 0, 0);
    // The server would refuse a larger batch; the rest stays for later.
    let room = pg::notify::room();
    while bytes < BATCH {
        match queue.read(place, &mut frame) {
            Next::Nothing => break,
            Next::Cancelled { after } => place = after,
            Next::Events { after, .. } => {
                let hashes: Vec<u64> = events(&frame).map(hash).collect();
                let is_too_much = bytes + frame.len() > room;
                if is_too_much || hashes.iter().any(|hash| sent.contains(hash)) {
                    break;
                }
                (bytes, count) = (bytes + frame.len(), count + hashes.len() as u64);
                sent.extend(hashes);
                batch.push(std::mem::take(&mut frame));
                place = after;
            }
        }
    }
    if !batch.is_empty() {
        BackgroundWorker::transaction(|| {
            for (channel, payload) in batch.iter().flat_map(|frame| events(frame)) {
                pg::notify::notify(channel, payload);
            }
        });
        shared.delivered.fetch_add(count, Ordering::Relaxed);
        shared.batches.fetch_add(1, Ordering::Relaxed);
    }
    queue.release(place);
    batch.len() as u64
}

/// A hash collision only ends a batch early.
fn hash(event: (&std::ffi::CStr, &std::ffi::CStr)) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(event)
}
