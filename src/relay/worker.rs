//! The relay: the background worker that notifies.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::Duration;

use civic_queue::Next;
use pgrx::PgLogLevel;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::frame::events;
use super::prepared;
use crate::pg::shared::{self, Shared};
use crate::pg::worker::Shutdown;
use crate::{pg, settings};

/// Bytes of events that one batch carries, about.
const BATCH: usize = 256 * 1024;
/// With nothing to do it polls this often. A process that has work for it wakes it.
const IDLE: Duration = Duration::from_secs(10);
/// Under load it lets transactions gather for so long: each batch wakes every listener of the
/// database, whatever its channel.
const GATHERING: Duration = Duration::from_millis(50);
/// How often it checks meanwhile whether a transaction waits.
const LOOK: Duration = Duration::from_millis(5);
/// How long it leaves the server's own queue to drain when that is nearly full.
const STANDSTILL: Duration = Duration::from_secs(1);

pub fn register() {
    pg::worker::register("pg_civic relay", "civic_relay_main");
}

/// The worker's main function. The server starts it again a second after it ends.
#[allow(unsafe_code)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn civic_relay_main(_argument: pg_sys::Datum) {
    let Some(shared) = shared::shared() else { return };
    // Switched off it stays away from the database, so that the database can be renamed. What a transaction
    // had put into the queue before it ended is still delivered.
    let is_wanted = || settings::relay() || shared.queue().used() > 0;
    let database = settings::database();
    pg::worker::begin(&database, &shared.relay, Shutdown::AfterTransaction, is_wanted);
    pg::transaction::commit_without_waiting();
    if shared.take_over() {
        log_restart(shared);
    }
    // Of before the server's start.
    shared.note_prepared();
    run(shared);
    // Ended by pg_terminate_backend() or DROP DATABASE … (FORCE), it is started again.
    pg::end_process_to_be_restarted();
}

/// One line for each restart, in the form of those for ended media jobs.
fn log_restart(shared: &'static Shared) {
    let (accepted, delivered) = (&shared.accepted, &shared.delivered);
    let queued = accepted.load(Ordering::Relaxed).saturating_sub(delivered.load(Ordering::Relaxed));
    let queue = shared.queue();
    let waits = queue.oldest().map_or(0, |since| (pg::transaction::now() - since as i64).max(0));
    let detail = serde_json::json!({
        "worker": "relay", "pid": std::process::id(), "queued_events": queued,
        "queue_used_bytes": queue.used(), "oldest_wait_seconds": waits as f64 / 1e6,
    });
    let message = "the relay was started again";
    ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message, "civic_relay_main")
        .set_detail(detail.to_string())
        .report(PgLogLevel::LOG);
}

fn run(shared: &'static Shared) {
    pg::worker::run(&shared.relay, None, |_| match deliver(shared) {
        0 if shared.queue().used() == 0 && !shared.may_have_prepared() => IDLE,
        // Its transaction has not ended yet, and will wake this process; or the server's queue is full; or a
        // transaction is prepared, whose commit wakes nobody.
        0 => STANDSTILL,
        // One client's events are notified at once. Those of many clients gather, the longer the more.
        1..=2 => Duration::ZERO,
        many => {
            gather(shared, Duration::from_millis(many).min(GATHERING));
            Duration::ZERO
        }
    });
    // Of what has been committed by now nothing is left behind.
    let end = shared.queue().head();
    while shared.queue().tail() < end && deliver(shared) > 0 {}
}

/// After a batch it gathers for this time, whatever comes.
fn gather(shared: &'static Shared, time: Duration) {
    let end = std::time::Instant::now() + time;
    while let Some(left) = end.checked_duration_since(std::time::Instant::now())
        && !left.is_zero()
        && shared.awaited.load(Ordering::Relaxed) <= shared.queue().tail()
        && shared.queue().used() < shared.queue().size() / 2
        && !pg::worker::is_shutdown_requested()
    {
        std::thread::sleep(left.min(LOOK));
    }
}

/// Tells of the transactions that are next, in one transaction of its own. Gives how many they were.
///
/// NOTIFY folds what is repeated within a transaction, so a text that another transaction of the
/// batch has sent begins the next one: it is received as often as it was sent.
fn deliver(shared: &'static Shared) -> u64 {
    let queue = shared.queue();
    let (mut place, mut frame) = (queue.tail(), Vec::new());
    let mut batch: Vec<(u64, Vec<u8>)> = vec![];
    let (mut told, mut bytes) = (HashSet::new(), 0);
    // Beyond it the server would refuse the batch, which is then left for later.
    let room = pg::notify::room();
    while bytes < BATCH {
        match queue.read(place, &mut frame) {
            Next::Nothing => break,
            Next::Cancelled { after } => place = after,
            Next::Events { after, .. } => {
                let hashes: Vec<u64> = events(&frame).map(hash).collect();
                let is_too_much = bytes + frame.len() > room;
                if is_too_much || hashes.iter().any(|hash| told.contains(hash)) {
                    break;
                }
                bytes += frame.len();
                told.extend(hashes);
                batch.push((place, std::mem::take(&mut frame)));
                place = after;
            }
        }
    }
    match prepared::first(shared) {
        Ok(None) => {}
        Ok(Some(first)) if first.place <= queue.tail() => return first.publish(shared).into(),
        // What was committed before it, and then its turn.
        Ok(Some(first)) => {
            place = place.min(first.place);
            batch.retain(|(begun, _)| *begun < first.place);
        }
        Err(prepared::Locked) => return 0,
    }
    publish(shared, &batch);
    queue.release(place);
    batch.len() as u64
}

fn publish(shared: &'static Shared, batch: &[(u64, Vec<u8>)]) {
    if batch.is_empty() {
        return;
    }
    let frames = || batch.iter().map(|(_, frame)| frame);
    let mut count = 0;
    BackgroundWorker::transaction(AssertUnwindSafe(|| {
        for (channel, payload) in frames().flat_map(|frame| events(frame)) {
            pg::notify::notify(channel, payload);
            count += 1;
        }
    }));
    shared.delivered.fetch_add(count, Ordering::Relaxed);
    shared.batches.fetch_add(1, Ordering::Relaxed);
    let bytes = frames().map(Vec::len).sum();
    pg::shared::counters::count(|counters| &counters.relay_bytes, bytes);
}

/// Two events of the same hash only end a batch early.
fn hash(event: (&std::ffi::CStr, &std::ffi::CStr)) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(event)
}
