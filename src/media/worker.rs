//! The worker: it claims jobs that are due, has threads transfer the files, and records how it went.
//!
//! HTTP is done in the threads, with no transaction open; PostgreSQL is called by the process's own
//! thread alone, in short transactions. A thread hands its result over and wakes the worker through
//! a socket.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use civic_http::Cancel;
use pgrx::Uuid;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

use super::attach::attach;
use super::job::{Outcome, State};
use super::queue::{self, Claim, Hold, Report};
use super::transfer::{Services, Task, transfer};
use crate::error::{Error, ServiceError};
use crate::pg::{shared, wait};
use crate::settings::media as limits;
use crate::{pg, service, settings};

/// With nothing to do it looks this often, though whoever has something wakes it.
const IDLE: Duration = Duration::from_secs(10);
/// It looks no more often than this, unless it is woken.
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);
/// How often it removes old jobs, and how many at a time.
const PRUNING: Duration = Duration::from_secs(60);
const PRUNED_AT_ONCE: i64 = 1000;
/// How long transfers get to notice that the server is about to end.
const FAREWELL: Duration = Duration::from_secs(1);

pub fn register() {
    BackgroundWorkerBuilder::new("pg_civic media")
        .set_library("pg_civic")
        .set_function("civic_media_main")
        .set_type("pg_civic media")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// The worker's main function. The server starts it again a second after it ends.
#[allow(unsafe_code)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn civic_media_main(_argument: pg_sys::Datum) {
    pg::worker::begin(&settings::database());
    let Some(shared) = shared::shared() else { return };
    shared.take_over_media();
    match Worker::new() {
        Ok(mut worker) => worker.run(),
        Err(error) => warn(&format!("the media worker cannot start: {error}")),
    }
    // To be ended by a person or by DROP DATABASE … (FORCE) is no reason to stay away.
    pg::end_process_to_be_restarted();
}

/// Into the server's log, for whoever operates it.
fn warn(message: &str) {
    ereport!(PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_WARNING, message.to_owned());
}

/// A job whose transfer is under way, or has ended and waits to be recorded.
struct InHand {
    claim: Claim,
    cancel: Cancel,
}

struct Ended {
    id: Uuid,
    report: Report,
}

struct Worker {
    in_hand: HashMap<Uuid, InHand>,
    /// Ended and not recorded yet.
    ended: Vec<Ended>,
    results: Receiver<Ended>,
    sender: Sender<Ended>,
    /// What a thread writes a byte to wakes the worker, which waits at the other end.
    bell: UnixStream,
    rope: Arc<UnixStream>,
    /// The services as the settings name them; `None` where they cannot be asked.
    services: Option<Arc<Services>>,
    /// When old jobs were last removed.
    pruned: Option<Instant>,
}

/// What a look at the table has shown.
#[derive(Default)]
struct Look {
    claims: Vec<Claim>,
    /// In hand, and to be cancelled.
    cancelled: Vec<Uuid>,
    next_due: Option<Duration>,
    is_all_pruned: bool,
}

impl Look {
    /// Takes a claimed job in hand, unless its ticket now stands in the way.
    fn take(&mut self, mut claim: Claim) -> Result<(), Error> {
        match queue::becomes_sensitive(&mut claim) {
            Ok(_) => self.claims.push(claim),
            Err(error) => {
                let limit = limits::media_attempts();
                queue::settle(claim.id, claim.tries, false, &of_ticket(&error), limit)?;
            }
        }
        Ok(())
    }
}

/// The report where it cannot be told whether a ticket is sensitive.
fn of_ticket(error: &Error) -> Report {
    let may_heal = !matches!(error, Error::Service(ServiceError::TicketOfAnother { .. }));
    Report {
        outcome: Outcome::Refused { may_heal, retry_after: None },
        stored: None,
        error: Some(error.message()),
    }
}

impl Worker {
    fn new() -> std::io::Result<Worker> {
        let (bell, rope) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rope.set_nonblocking(true)?;
        let (sender, results) = channel();
        Ok(Worker {
            in_hand: HashMap::new(),
            ended: vec![],
            results,
            sender,
            bell,
            rope: Arc::new(rope),
            services: None,
            pruned: None,
        })
    }

    fn run(&mut self) {
        self.services = services();
        while !pg::worker::takes_leave() {
            if BackgroundWorker::sighup_received() {
                pg::reload_settings();
                self.services = services();
                self.pruned = None;
            }
            self.gather();
            // The next transfers begin before the last ones are recorded, which takes its time.
            let mut time = self.look();
            if self.record() {
                time = time.min(SHORTEST_SLEEP);
            }
            pg::worker::wait(self.bell.as_fd(), time);
        }
        self.take_leave();
    }

    /// Takes the results that have come.
    fn gather(&mut self) {
        // Emptied before the results are taken: one that comes in between rings again.
        while matches!(self.bell.read(&mut [0; 64]), Ok(1..)) {}
        self.ended.extend(self.results.try_iter());
    }

    /// Records what has ended, all in one transaction. Gives whether there was anything, after which
    /// there may be more to do.
    fn record(&mut self) -> bool {
        if self.ended.is_empty() {
            return false;
        }
        let in_hand = &self.in_hand;
        let holds = in_transaction(|owner| {
            let record = |Ended { id, report }: &Ended| match in_hand.get(id) {
                Some(InHand { claim, .. }) => record(owner, claim, report),
                None => Ok(Hold::NotOurs),
            };
            self.ended.iter().map(record).collect::<Result<Vec<_>, _>>()
        });
        // Of a table that is gone nothing is left to record.
        let mut holds = holds.unwrap_or_default().into_iter();
        self.ended.retain(|Ended { id, .. }| {
            let is_locked = holds.next() == Some(Hold::Locked);
            if !is_locked {
                self.in_hand.remove(id);
            }
            is_locked
        });
        true
    }

    /// Looks what there is to do, and begins with it. Gives how long there is nothing more.
    fn look(&mut self) -> Duration {
        let travelling = self.in_hand.len().saturating_sub(self.ended.len());
        let free = limits::media_concurrency().saturating_sub(travelling);
        let to_claim = if self.services.is_some() { free } else { 0 };
        let is_time_to_prune = self.pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNING);
        let retention = limits::media_retention().filter(|_| is_time_to_prune);
        let look = |owner| {
            queue::as_owner(owner, || {
                let mut look = Look { is_all_pruned: true, ..Look::default() };
                for (id, tries, is_cancelled) in queue::running()? {
                    match self.in_hand.get(&id) {
                        Some(_) if is_cancelled => look.cancelled.push(id),
                        Some(_) => {}
                        None => take_up(id, tries)?,
                    }
                }
                if to_claim > 0 {
                    for claim in queue::claim(to_claim)? {
                        look.take(claim)?;
                    }
                    look.next_due = queue::next_due()?;
                }
                if let Some(retention) = retention {
                    let removed = queue::prune(retention, PRUNED_AT_ONCE)?;
                    look.is_all_pruned = removed < PRUNED_AT_ONCE as usize;
                }
                Ok(look)
            })
        };
        let Some(look) = in_transaction(look) else {
            return IDLE;
        };
        if is_time_to_prune {
            self.pruned = look.is_all_pruned.then(Instant::now);
        }
        for id in look.cancelled {
            if let Some(in_hand) = self.in_hand.get(&id) {
                in_hand.cancel.cancel();
            }
        }
        let claimed = look.claims.len();
        look.claims.into_iter().for_each(|claim| self.begin(claim));
        match look.next_due {
            _ if !look.is_all_pruned => SHORTEST_SLEEP,
            Some(due) if claimed < to_claim => due.clamp(SHORTEST_SLEEP, IDLE),
            // The next transfer to end wakes the worker.
            _ => IDLE,
        }
    }

    /// Has a thread transfer a job's file.
    fn begin(&mut self, claim: Claim) {
        let Some(services) = self.services.clone() else { return };
        let (id, cancel) = (claim.id, Cancel::new());
        let Claim { media_url, bucket, path, former_bucket, stored, .. } = claim.clone();
        self.in_hand.insert(id, InHand { claim, cancel: cancel.clone() });
        if stored.is_some() {
            self.hand_over(id, Report { outcome: Outcome::Stored, stored, error: None });
            return;
        }
        let (sender, rope) = (self.sender.clone(), Arc::clone(&self.rope));
        let task = Task { media_url, bucket, path, former_bucket };
        let started = wait::start_thread("civic media", move || {
            let report = report(&services, &task, &cancel);
            // Where nobody listens any more, the worker has ended.
            let _ = sender.send(Ended { id, report });
            // Where the socket is full, the worker is awake.
            let _ = (&*rope).write(&[0]);
        });
        if let Err(error) = started {
            let outcome = Outcome::Refused { may_heal: true, retry_after: None };
            self.hand_over(id, Report { outcome, stored: None, error: Some(error.message()) });
        }
    }

    /// What a thread does at its end, for a job that needs none.
    fn hand_over(&mut self, id: Uuid, report: Report) {
        self.ended.push(Ended { id, report });
        let _ = (&*self.rope).write(&[0]);
    }

    /// The worker ends in good order: transfers are called off, and their jobs are due again.
    fn take_leave(&mut self) {
        self.in_hand.values().for_each(|in_hand| in_hand.cancel.cancel());
        self.gather();
        let deadline = Instant::now() + FAREWELL;
        while self.ended.len() < self.in_hand.len()
            && let left = deadline.saturating_duration_since(Instant::now())
            && let Ok(ended) = self.results.recv_timeout(left)
        {
            self.ended.push(ended);
        }
        for Ended { report, .. } in &mut self.ended {
            if report.outcome == Outcome::Cancelled {
                report.outcome = Outcome::Released;
                report.error = None;
            }
        }
        // What has not noticed ends with the process.
        let is_missing = |id: &Uuid| !self.ended.iter().any(|ended| ended.id == *id);
        let missing = self.in_hand.iter().filter(|(id, _)| is_missing(id));
        let released = |(id, _): (&Uuid, &InHand)| {
            let report = Report { outcome: Outcome::Released, stored: None, error: None };
            Ended { id: *id, report }
        };
        let missing: Vec<_> = missing.map(released).collect();
        self.ended.extend(missing);
        self.record();
    }
}

/// The services, as the settings are now. Where none are configured jobs wait, as `check()` says; what
/// is configured and cannot be used is told.
fn services() -> Option<Arc<Services>> {
    let made = service::storage_api()
        .and_then(|storage| Ok(Services { storage, source: service::media_source()? }));
    match made {
        Ok(services) => Some(Arc::new(services)),
        Err(Error::Service(ServiceError::NotConfigured { .. })) => None,
        Err(error) => {
            warn(&format!("media jobs wait: {}", error.message()));
            None
        }
    }
}

/// A job runs, and this worker does not have it in hand: one before was killed over it.
fn take_up(id: Uuid, tries: i32) -> Result<(), Error> {
    let report = Report {
        outcome: Outcome::Interrupted,
        stored: None,
        error: Some("the worker was killed, or its server crashed, during this try".to_owned()),
    };
    match queue::hold(id, tries)? {
        Hold::Ours { is_cancelled } => {
            queue::settle(id, tries, is_cancelled, &report, limits::media_attempts()).map(|_| ())
        }
        // Looked at again next time.
        Hold::Locked | Hold::NotOurs => Ok(()),
    }
}

/// Does something in a transaction of its own, given the table's owner. `None` where there is no such
/// table. An error ends the worker, which starts anew.
fn in_transaction<R>(body: impl FnOnce(pg_sys::Oid) -> Result<R, Error>) -> Option<R> {
    let body = || queue::owner().and_then(|owner| owner.map(body).transpose());
    pg::worker::transaction(|| body().unwrap_or_else(|error| error.raise()))
}

/// Records how a try ended. A file that is stored gets its row in the table of attachments, with the
/// rights of that table's owner; where this fails the job is tried again, and only this of it. One
/// whose ticket has become sensitive meanwhile is taken behind the firewall by the next try.
fn record(owner: pg_sys::Oid, claim: &Claim, report: &Report) -> Result<Hold, Error> {
    let hold = queue::as_owner(owner, || queue::hold(claim.id, claim.tries))?;
    let Hold::Ours { is_cancelled } = hold else { return Ok(hold) };
    let mut claim = claim.clone();
    let refused = match &report.stored {
        None => None,
        Some((content_type, size)) => {
            match queue::as_owner(owner, || queue::becomes_sensitive(&mut claim)) {
                Err(error) => Some(of_ticket(&error)),
                Ok(true) => Some(Report {
                    outcome: Outcome::Refused { may_heal: true, retry_after: None },
                    stored: None,
                    error: Some("the ticket has become sensitive during the transfer".to_owned()),
                }),
                Ok(false) => attach(&claim, content_type, *size).err().map(|error| Report {
                    outcome: Outcome::Refused { may_heal: true, retry_after: None },
                    stored: report.stored.clone(),
                    error: Some(error.message()),
                }),
            }
        }
    };
    let report = refused.as_ref().unwrap_or(report);
    let limit = limits::media_attempts();
    let settle = || queue::settle(claim.id, claim.tries, is_cancelled, report, limit);
    let state = queue::as_owner(owner, settle)?;
    if let (State::Failed | State::Cancelled, Some(bucket)) = (state, &claim.former_bucket) {
        warn(&format!(
            "media job {} is {}, and its ticket has become sensitive: remove {} from bucket {bucket}, \
             should it be there",
            claim.id,
            state.name(),
            claim.path
        ));
    }
    Ok(hold)
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
