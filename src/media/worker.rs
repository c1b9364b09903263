//! The worker: it claims jobs that are due, has threads transfer the files, and records the attempts.
//!
//! HTTP is done in the threads, with no transaction open; PostgreSQL is called by the process's own
//! thread alone, in short transactions. A thread hands its result over and wakes the worker through
//! a socket. What other people's tables take part in is asked of another process, see [`super::tables`].

mod cycle;
mod flight;
mod stalls;
mod steps;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use pgrx::Uuid;
use pgrx::prelude::*;

use self::cycle::Upkeep;
use self::stalls::Stalls;
use self::steps::{Asked, Pending, Work};
use super::job::{Attempt, Kind, Outcome};
use super::process;
use super::store::{Job, Shares, Turns, warn};
use super::tables::request::{Files, Step};
use super::target::folder;
use super::transfer::{Restrict, Services, Task, perform};
use crate::error::Error;
use crate::pg;
use crate::pg::shared::counters::{self, ErrorClass};
use crate::pg::shared::{self, Shared};
use crate::pg::wait;
use crate::settings::media as limits;
use crate::storage::StorageError;
use crate::storage::api as service;

/// With nothing to do it polls this often. A process that has work for it wakes it.
const IDLE: Duration = Duration::from_secs(10);
/// It polls no more often than this, unless it is woken.
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);
/// As often as this, if the table cannot be read.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// With no transfer to spare it polls this often, at most.
const BUSY_INTERVAL: Duration = Duration::from_millis(100);
/// How often it removes old jobs.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// How long transfers get to notice a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

pub fn register() {
    pg::worker::register("pg_civic media", "civic_media_main");
}

/// The worker's main function. The server starts it again a second after it ends.
#[allow(unsafe_code)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn civic_media_main(_argument: pg_sys::Datum) {
    let Some(shared) = shared::shared() else { return };
    process::begin(&shared.media, || false);
    shared.take_over_media();
    pg::worker::at_shutdown(cycle::release_all);
    match Worker::new(shared) {
        Ok(mut worker) => worker.run(),
        Err(error) => warn(&format!("the media worker cannot start: {error}")),
    }
    // Ended by pg_terminate_backend() or DROP DATABASE … (FORCE), it is started again.
    pg::end_process_to_be_restarted();
}

/// What a thread gives at its end.
struct Message {
    id: Uuid,
    attempt: Attempt,
}

struct Worker {
    shared: &'static Shared,
    /// What is to be done next with jobs in flight, beside their transfers.
    pending: VecDeque<Pending>,
    asked: Option<Asked>,
    stalls: Stalls,
    results: Receiver<Message>,
    sender: Sender<Message>,
    /// A byte that a thread writes to the sender wakes the worker, which waits at the receiver.
    wake_receiver: UnixStream,
    wake_sender: Arc<UnixStream>,
    /// The services as the settings name them; `None` where they cannot be asked.
    services: Option<Arc<Services>>,
    turns: Turns,
    /// Polls that have failed since one succeeded.
    failures: u32,
    /// When the worker last polled the table, and when it last removed old jobs.
    polled: Option<Instant>,
    pruned: Option<Instant>,
}

impl Worker {
    fn new(shared: &'static Shared) -> std::io::Result<Worker> {
        let (wake_receiver, wake_sender) = UnixStream::pair()?;
        wake_receiver.set_nonblocking(true)?;
        wake_sender.set_nonblocking(true)?;
        let (sender, results) = channel();
        Ok(Worker {
            shared,
            pending: VecDeque::new(),
            asked: None,
            stalls: Stalls::default(),
            results,
            sender,
            wake_receiver,
            wake_sender: Arc::new(wake_sender),
            services: None,
            turns: Turns::default(),
            failures: 0,
            polled: None,
            pruned: None,
        })
    }

    fn run(&mut self) {
        self.services = services();
        let Ok(wake_receiver) = self.wake_receiver.try_clone() else { return };
        pg::worker::run(&self.shared.media, Some(wake_receiver.as_fd()), |is_reloaded| {
            if is_reloaded {
                self.services = services();
                self.pruned = None;
            }
            self.cycle()
        });
        self.shut_down();
    }

    /// Does what there is to do. Gives how long there is nothing more.
    fn cycle(&mut self) -> Duration {
        self.gather();
        // Transfers that can begin do so before a poll, which may wait for a lock.
        let mut time = self.go_on();
        time = time.min(if self.has_just_polled() { BUSY_INTERVAL } else { self.poll() });
        time.min(self.go_on())
    }

    /// With no transfer to spare a poll shows only what was cancelled, however many jobs are being added,
    /// each of which wakes the worker.
    fn has_just_polled(&self) -> bool {
        self.free() == 0 && self.polled.is_some_and(|polled| polled.elapsed() < BUSY_INTERVAL)
    }

    /// How many files of each municipality travel. One that only waits to be recorded does not.
    fn travelling(&self) -> HashMap<String, usize> {
        let asked = self.asked.iter().map(|asked| &asked.pending);
        let waits = |pending: &&Pending| !matches!(pending.work, Work::Ask(Step::Prepare));
        let waiting = self.pending.iter().chain(asked).filter(waits).map(|pending| pending.id);
        let waiting: HashSet<Uuid> = waiting.collect();
        let mut travelling = HashMap::new();
        for in_flight in flight::jobs().values().filter(|it| !waiting.contains(&it.job.id)) {
            *travelling.entry(in_flight.job.tenant_id.clone()).or_default() += 1;
        }
        travelling
    }

    /// How many more files may travel.
    fn free(&self) -> usize {
        limits::media_concurrency().saturating_sub(self.travelling().values().sum())
    }

    /// Takes the results that have come.
    fn gather(&mut self) {
        // Emptied before the results are taken: one that comes in between wakes again.
        while matches!(self.wake_receiver.read(&mut [0; 64]), Ok(1..)) {}
        while let Ok(Message { id, attempt }) = self.results.try_recv() {
            let bytes = attempt.stored.as_ref().map_or(0, |(_, size)| *size as usize);
            counters::count(|counters| &counters.media_bytes, bytes);
            counters::count(|counters| &counters.media_moved, attempt.moved.len());
            self.ends(id, attempt);
        }
    }

    /// The kinds of jobs that can be done, the urgent first.
    fn kinds(&self) -> &'static [Kind] {
        match &self.services {
            None => &[],
            Some(services) if services.source.is_none() => &[Kind::Restrict],
            Some(_) => &[Kind::Restrict, Kind::Fetch],
        }
    }

    /// Polls the table, and begins with what there is to do. Gives how long there is nothing more.
    fn poll(&mut self) -> Duration {
        self.polled = Some(Instant::now());
        let to_claim = if self.has_helper() { self.free() } else { 0 };
        let is_time_to_prune = self.pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_INTERVAL);
        let upkeep = Upkeep { retention: limits::media_retention() };
        let upkeep = is_time_to_prune.then_some(upkeep);
        let is_in_flight = |id: &Uuid| flight::jobs().contains_key(id);
        let shares =
            Shares { running: self.travelling(), limit: limits::media_tenant_concurrency() };
        let kinds = self.kinds();
        let polled = cycle::poll(is_in_flight, kinds, to_claim, shares, &mut self.turns, upkeep);
        let polled = match polled {
            Ok(Some(polled)) => polled,
            Ok(None) => return IDLE,
            Err(()) => {
                self.failures += 1;
                return backoff(self.failures);
            }
        };
        self.failures = 0;
        if is_time_to_prune {
            self.pruned = polled.is_all_pruned.then(Instant::now);
        }
        for id in polled.cancelled {
            if let Some(in_flight) = flight::jobs().get(&id) {
                in_flight.cancel.cancel();
            }
        }
        let claimed = polled.jobs.len();
        polled.jobs.into_iter().for_each(|job| self.takes(job));
        match polled.next_due {
            _ if !polled.is_all_pruned => SHORTEST_SLEEP,
            Some(due) if claimed < to_claim => due.clamp(SHORTEST_SLEEP, IDLE),
            // The next transfer to end wakes the worker.
            _ => IDLE,
        }
    }

    /// Has a thread do the HTTP of a job in flight.
    fn begin(&mut self, id: Uuid, files: Files) {
        let found = flight::jobs().get_mut(&id).map(|it| {
            it.has_begun = true;
            (it.job.clone(), it.cancel.clone())
        });
        let Some((job, cancel)) = found else { return };
        if let Some((content_type, size)) = job.stored {
            self.ends(id, Attempt::stored(content_type, size));
            return;
        }
        let Some(services) = self.services.clone() else {
            self.plan(id, Work::Settle(Attempt::new(Outcome::Released)));
            return;
        };
        let task = task(job, files);
        let (sender, wake_sender) = (self.sender.clone(), Arc::clone(&self.wake_sender));
        let started = wait::start_thread("civic media", move || {
            // A panic here would take its job along, and leave it running for as long as the worker does.
            let attempt = catch_unwind(AssertUnwindSafe(|| perform(&services, &task, &cancel)));
            let attempt = attempt.unwrap_or_else(|_| {
                let error = "a mistake of pg_civic's: the transfer panicked".to_owned();
                Attempt::failed(ErrorClass::Internal, error)
            });
            // Without a receiver the worker has ended.
            let _ = sender.send(Message { id, attempt });
            // Where the socket is full, the worker is awake.
            let _ = (&*wake_sender).write(&[0]);
        });
        if let Err(error) = started {
            self.ends(id, Attempt::failed(ErrorClass::Internal, error.to_string()));
        }
    }

    /// A shutdown was requested: transfers are called off. Every job in flight is released then, see
    /// [`cycle::release_all`], and a file that is stored by that time is not transferred again.
    fn shut_down(&mut self) {
        let under_way = {
            let jobs = flight::jobs();
            jobs.values().for_each(|in_flight| in_flight.cancel.cancel());
            jobs.len().saturating_sub(self.pending.len() + usize::from(self.asked.is_some()))
        };
        let deadline = Instant::now() + SHUTDOWN_GRACE;
        for _ in 0..under_way {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(Message { id, attempt }) = self.results.recv_timeout(left) else { break };
            self.ends(id, attempt);
        }
    }
}

/// How long after so many failures in a row the table is polled again.
fn backoff(failures: u32) -> Duration {
    (SHORTEST_SLEEP * 2u32.pow(failures.min(7) - 1)).min(LONGEST_SLEEP)
}

/// What the thread of a job does.
fn task(job: Job, files: Files) -> Task {
    let Job { kind, tenant_id, ticket_id, media_url, bucket, path, .. } = job;
    match kind {
        Kind::Fetch => Task::Fetch { media_url, bucket, path },
        Kind::Restrict => Task::Restrict(Restrict {
            folder: folder(&tenant_id, &ticket_id),
            recorded: files.recorded,
            error: files.error,
        }),
    }
}

/// The services, as the settings are now. Where none are configured jobs wait, as `check()` reports; what
/// is configured and cannot be used is a WARNING. Without Twilio files can still be restricted.
fn services() -> Option<Arc<Services>> {
    let usable = |error: Error, what: &str| {
        if !matches!(error.downcast_ref(), Some(StorageError::NotConfigured { .. })) {
            warn(&format!("{what} wait: {}", error.message()));
        }
    };
    let storage = service::storage_api().map_err(|error| usable(error, "media jobs")).ok()?;
    let source = service::media_source().map_err(|error| usable(error, "files to be fetched")).ok();
    Some(Arc::new(Services { storage, source }))
}
