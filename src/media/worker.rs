//! The worker: it claims jobs that are due, has threads transfer the files, and records how it went.
//!
//! HTTP is done in the threads, with no transaction open; PostgreSQL is called by the process's own
//! thread alone, in short transactions. A thread hands its result over and wakes the worker through
//! a socket. What other people's tables take part in is asked of another process, see [`super::tables`].

mod steps;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use civic_http::Cancel;
use pgrx::Uuid;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;

use self::steps::{Asked, Pending, Work};
use super::in_hand;
use super::job::{Outcome, Report};
use super::queue::{Claim, Sweep, warn};
use super::request::Step;
use super::stalls::Stalls;
use super::transfer::{Services, Task, sweep, transfer};
use super::turn;
use crate::pg::shared::{self, Shared};
use crate::pg::wait;
use crate::settings::media as limits;
use crate::storage::StorageError;
use crate::storage::api as service;
use crate::{pg, settings};

/// With nothing to do it looks this often, though whoever has something wakes it.
const IDLE: Duration = Duration::from_secs(10);
/// It looks no more often than this, unless it is woken.
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);
/// With all hands full it looks this often, at most.
const GLANCE: Duration = Duration::from_millis(100);
/// How often it removes old jobs.
const PRUNING: Duration = Duration::from_secs(60);
/// How long transfers get to notice that the server is about to end.
const FAREWELL: Duration = Duration::from_secs(1);

pub fn register() {
    pg::worker::register("pg_civic media", "civic_media_main");
}

/// The worker's main function. The server starts it again a second after it ends.
#[allow(unsafe_code)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn civic_media_main(_argument: pg_sys::Datum) {
    pg::worker::begin(&settings::database());
    let Some(shared) = shared::shared() else { return };
    shared.take_over_media();
    pg::worker::on_shutdown(in_hand::release_all);
    match Worker::new(shared) {
        Ok(mut worker) => worker.run(),
        Err(error) => warn(&format!("the media worker cannot start: {error}")),
    }
    // To be ended by a person or by DROP DATABASE … (FORCE) is no reason to stay away.
    pg::end_process_to_be_restarted();
}

struct Ended {
    id: Uuid,
    report: Report,
}

/// What a thread tells at its end.
enum Message {
    Ended(Ended),
    /// Of a file that is not, or not any more, where it must not be.
    Swept(Uuid),
    /// Why it may still be there.
    NotSwept(Sweep, String),
}

struct Worker {
    shared: &'static Shared,
    /// What is to be done next with jobs in hand, beside their transfers.
    pending: VecDeque<Pending>,
    asked: Option<Asked>,
    stalls: Stalls,
    swept: Vec<Uuid>,
    results: Receiver<Message>,
    sender: Sender<Message>,
    /// What a thread writes a byte to wakes the worker, which waits at the other end.
    bell: UnixStream,
    rope: Arc<UnixStream>,
    /// The services as the settings name them; `None` where they cannot be asked.
    services: Option<Arc<Services>>,
    /// When the worker last looked at the table, and when it last removed old jobs.
    looked: Option<Instant>,
    pruned: Option<Instant>,
}

impl Worker {
    fn new(shared: &'static Shared) -> std::io::Result<Worker> {
        let (bell, rope) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rope.set_nonblocking(true)?;
        let (sender, results) = channel();
        Ok(Worker {
            shared,
            pending: VecDeque::new(),
            asked: None,
            stalls: Stalls::default(),
            swept: vec![],
            results,
            sender,
            bell,
            rope: Arc::new(rope),
            services: None,
            looked: None,
            pruned: None,
        })
    }

    fn run(&mut self) {
        self.services = services();
        while !pg::worker::take_shutdown_request() {
            if BackgroundWorker::sighup_received() {
                pg::guc::reload_settings();
                self.services = services();
                self.pruned = None;
            }
            self.gather();
            self.swept.drain(..).for_each(turn::end_sweep);
            // Transfers that can begin do so before a look, which may wait for a lock.
            let mut time = self.go_on();
            time = time.min(if self.has_just_looked() { GLANCE } else { self.look() });
            time = time.min(self.go_on());
            pg::worker::wait(self.bell.as_fd(), time);
        }
        self.take_leave();
    }

    /// With all hands full a look shows only what was cancelled, however many jobs are being added,
    /// each of which wakes the worker.
    fn has_just_looked(&self) -> bool {
        self.free() == 0 && self.looked.is_some_and(|looked| looked.elapsed() < GLANCE)
    }

    /// How many more files may travel. One that only waits to be recorded does not.
    fn free(&self) -> usize {
        let waits = |pending: &&Pending| !matches!(pending.work, Work::Ask(Step::Prepare));
        let asked = self.asked.iter().map(|asked| &asked.pending);
        let waiting = self.pending.iter().chain(asked).filter(waits).count();
        let travelling = in_hand::jobs().len().saturating_sub(waiting);
        limits::media_concurrency().saturating_sub(travelling)
    }

    /// Takes the results that have come.
    fn gather(&mut self) {
        // Emptied before the results are taken: one that comes in between rings again.
        while matches!(self.bell.read(&mut [0; 64]), Ok(1..)) {}
        while let Ok(message) = self.results.try_recv() {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ended(Ended { id, report }) => self.ends(id, report),
            Message::Swept(id) => self.swept.push(id),
            Message::NotSwept(Sweep { id, bucket, path }, why) => warn(&format!(
                "{path}, of media job {id} whose ticket has become sensitive, could not be removed from \
                 bucket {bucket}, and will be tried again: {why}"
            )),
        }
    }

    /// Looks what there is to do, and begins with it. Gives how long there is nothing more.
    fn look(&mut self) -> Duration {
        self.looked = Some(Instant::now());
        let to_claim = if self.services.is_some() && self.has_helper() { self.free() } else { 0 };
        let is_time_to_prune = self.pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNING);
        let retention = limits::media_retention().filter(|_| is_time_to_prune);
        let is_in_hand = |id: &Uuid| in_hand::jobs().contains_key(id);
        let can_sweep = self.services.is_some();
        let Some(look) = turn::look(is_in_hand, to_claim, can_sweep, retention) else {
            return IDLE;
        };
        if is_time_to_prune {
            self.pruned = look.is_all_pruned.then(Instant::now);
        }
        for id in look.cancelled {
            if let Some(in_hand) = in_hand::jobs().get(&id) {
                in_hand.cancel.cancel();
            }
        }
        let claimed = look.claims.len();
        look.claims.into_iter().for_each(|claim| self.takes(claim));
        look.sweeps.into_iter().for_each(|sweep| self.sweep(sweep));
        match look.next_due {
            _ if !look.is_all_pruned => SHORTEST_SLEEP,
            Some(due) if claimed < to_claim => due.clamp(SHORTEST_SLEEP, IDLE),
            // The next transfer to end wakes the worker.
            _ => IDLE,
        }
    }

    /// Has a thread transfer the file of a job in hand.
    fn begin(&mut self, id: Uuid) {
        let job = in_hand::jobs().get_mut(&id).map(|job| {
            job.has_begun = true;
            (job.claim.clone(), job.cancel.clone())
        });
        let Some((claim, cancel)) = job else { return };
        let Claim { media_url, bucket, path, former_bucket, stored, .. } = claim;
        if stored.is_some() {
            self.ends(id, Report { outcome: Outcome::Stored, stored, error: None });
            return;
        }
        let Some(services) = self.services.clone() else {
            let released = Report { outcome: Outcome::Released, stored: None, error: None };
            self.plan(id, Work::Settle(released));
            return;
        };
        let (sender, rope) = (self.sender.clone(), Arc::clone(&self.rope));
        let task = Task { media_url, bucket, path, former_bucket };
        let started = wait::start_thread("civic media", move || {
            let report = report(&services, &task, &cancel);
            // Where nobody listens any more, the worker has ended.
            let _ = sender.send(Message::Ended(Ended { id, report }));
            // Where the socket is full, the worker is awake.
            let _ = (&*rope).write(&[0]);
        });
        if let Err(error) = started {
            self.ends(id, Report::refused(error.to_string()));
        }
    }

    /// Has a thread remove a file. Where it does not come to that, the sweep is due again later.
    fn sweep(&self, task: Sweep) {
        let Some(services) = self.services.clone() else { return };
        let (sender, rope) = (self.sender.clone(), Arc::clone(&self.rope));
        let _ = wait::start_thread("civic sweep", move || {
            let message = match sweep(&services.storage, &task.bucket, &task.path) {
                Ok(()) => Message::Swept(task.id),
                Err(error) => Message::NotSwept(task, error.message().to_owned()),
            };
            let _ = sender.send(message);
            let _ = (&*rope).write(&[0]);
        });
    }

    /// The worker ends in good order: transfers are called off. Every job in hand is released then, see
    /// [`in_hand::release_all`], and a file that is stored by then is not transferred again.
    fn take_leave(&mut self) {
        let under_way = {
            let jobs = in_hand::jobs();
            jobs.values().for_each(|in_hand| in_hand.cancel.cancel());
            jobs.len().saturating_sub(self.pending.len() + usize::from(self.asked.is_some()))
        };
        let deadline = Instant::now() + FAREWELL;
        for _ in 0..under_way {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(message) = self.results.recv_timeout(left) else { break };
            self.take(message);
        }
    }
}

/// The services, as the settings are now. Where none are configured jobs wait, as `check()` says; what
/// is configured and cannot be used is told.
fn services() -> Option<Arc<Services>> {
    let made = service::storage_api()
        .and_then(|storage| Ok(Services { storage, source: service::media_source()? }));
    match made {
        Ok(services) => Some(Arc::new(services)),
        Err(error) if matches!(error.downcast_ref(), Some(StorageError::NotConfigured { .. })) => {
            None
        }
        Err(error) => {
            warn(&format!("media jobs wait: {}", error.message()));
            None
        }
    }
}

fn report(services: &Services, task: &Task, cancel: &Cancel) -> Report {
    // A panic here would take its job along, and leave it running for as long as the worker does.
    match catch_unwind(AssertUnwindSafe(|| transfer(services, task, cancel))) {
        Ok(Ok(stored)) => Report {
            outcome: Outcome::Stored,
            stored: Some((stored.content_type, stored.size)),
            error: None,
        },
        Ok(Err(failure)) => {
            Report { outcome: failure.outcome, stored: None, error: Some(failure.message) }
        }
        Err(_) => Report {
            outcome: Outcome::Refused { may_heal: true, retry_after: None },
            stored: None,
            error: Some("a mistake of pg_civic's: the transfer panicked".to_owned()),
        },
    }
}
