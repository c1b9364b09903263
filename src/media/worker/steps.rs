//! What becomes of a job in flight before and after its transfer, one step at a time. The process that
//! works on other people's tables does the steps that these take part in.

use std::time::{Duration, Instant};

use pgrx::Uuid;

use super::{IDLE, SHORTEST_SLEEP, Worker, cycle, flight};
use crate::media::MediaError;
use crate::media::job::{Attempt, Kind, Outcome};
use crate::media::store::{Hold, Job};
use crate::media::tables::request::{Files, Request, Step};
use crate::media::tables::{LATER, READY, SENSITIVE};
use crate::pg::mailbox::Answer;
use crate::pg::shared::Shared;
use crate::pg::shared::counters::ErrorClass;
use crate::pg::{self, foreign};

/// The next step of a job in flight.
pub(super) struct Pending {
    pub id: Uuid,
    pub work: Work,
    /// Not before this, where a session has locked the job's row, or recording failed.
    pub due: Option<Instant>,
}

pub(super) enum Work {
    /// The other process does it.
    Ask(Step),
    /// This process records it, without other people's tables.
    Settle(Attempt),
}

/// A step that the other process has been asked to do.
pub(super) struct Asked {
    pub number: u64,
    pub pending: Pending,
    pub since: Instant,
    /// Whether the attempt that it belongs to is recorded, and the job claimed again: its answer is still to
    /// be read, and changes nothing.
    pub is_over: bool,
}

impl Worker {
    /// Whether there is a process that works on other people's tables, and nothing that a worker before
    /// this one has asked of it is under way.
    pub(super) fn has_helper(&self) -> bool {
        let Shared { media_tables: helper, mailbox, .. } = self.shared;
        helper.pid().is_some()
            && helper.is_this_database() == Some(true)
            && (self.asked.is_some() || mailbox.is_idle())
    }

    /// Begins with a claimed job.
    pub(super) fn takes(&mut self, job: Job) {
        let id = job.id;
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.pending.id == id) {
            asked.is_over = true;
        }
        // Nothing makes a sensitive ticket's media ordinary.
        let is_ready = job.kind == Kind::Fetch && job.is_sensitive;
        let stored = job.stored.clone();
        let cancel = civic_http::Cancel::new();
        flight::jobs().insert(id, flight::InFlight { job, cancel, has_begun: false, stored });
        if is_ready {
            self.begin(id, Files::default());
        } else {
            self.plan(id, Work::Ask(Step::Prepare));
        }
    }

    /// An attempt has ended, and is to be recorded.
    pub(super) fn ends(&mut self, id: Uuid, attempt: Attempt) {
        let is_sensitive = {
            let mut jobs = flight::jobs();
            let Some(it) = jobs.get_mut(&id) else { return };
            if attempt.stored.is_some() {
                it.stored = attempt.stored.clone();
            }
            it.job.is_sensitive
        };
        let needs_no_table = is_sensitive && attempt.stored.is_none() && attempt.moved.is_empty();
        self.plan(
            id,
            if needs_no_table { Work::Settle(attempt) } else { Work::Ask(Step::Record(attempt)) },
        );
    }

    pub(super) fn plan(&mut self, id: Uuid, work: Work) {
        self.pending.push_back(Pending { id, work, due: None });
    }

    /// Does what can be done next. Gives how long there is nothing more to do.
    pub(super) fn go_on(&mut self) -> Duration {
        let mut time = IDLE;
        loop {
            if let Some(asked) = self.asked.take() {
                let Some(answer) = self.shared.mailbox.answer_to(asked.number) else {
                    self.asked = Some(asked);
                    return self.settle_own(time);
                };
                time = time.min(self.answered(asked, answer));
            }
            time = self.settle_own(time);
            let Some(pending) = self.next_to_ask() else { return time };
            // That process, or its answer to a worker before this one, wakes this one.
            if !self.has_helper() {
                self.pending.push_front(pending);
                return time.min(SHORTEST_SLEEP);
            }
            self.ask(pending);
        }
    }

    /// The step to ask for; those of jobs that have held up others come last.
    fn next_to_ask(&mut self) -> Option<Pending> {
        let now = Instant::now();
        let is_next = |pending: &Pending| {
            matches!(pending.work, Work::Ask(_)) && pending.due.is_none_or(|due| due <= now)
        };
        let is_first =
            |pending: &Pending| is_next(pending) && !self.stalls.is_last(pending.id, now);
        let place = self.pending.iter().position(is_first);
        let place = place.or_else(|| self.pending.iter().position(is_next))?;
        self.pending.remove(place)
    }

    /// Asks the other process, unless the municipality's jobs have held it up.
    fn ask(&mut self, pending: Pending) {
        let id = pending.id;
        let job = flight::jobs().get(&id).map(|it| it.job.clone());
        let (Some(job), Work::Ask(step)) = (job, &pending.work) else { return };
        if let Some(left) = self.stalls.held(&job.tenant_id, Instant::now()) {
            let error = MediaError::TenantStalled { tenant_id: job.tenant_id.clone() }.to_string();
            self.give_up(&job, step, Outcome::Postponed { delay: left }, error);
            return;
        }
        let request = Request { id, attempts: job.attempts, step: step.clone() }.to_json();
        let number = self.shared.mailbox.send(request.as_bytes());
        self.shared.media_tables.wake();
        self.asked = Some(Asked { number, pending, since: Instant::now(), is_over: false });
    }

    fn answered(&mut self, asked: Asked, answer: Answer) -> Duration {
        let Asked { pending: Pending { id, work, .. }, since, is_over, .. } = asked;
        if is_over {
            return IDLE;
        }
        let job = flight::jobs().get(&id).map(|it| it.job.clone());
        let (Some(job), Work::Ask(step)) = (job, work) else { return IDLE };
        self.stalls.note(&job.tenant_id, id, since.elapsed(), Instant::now());
        match answer {
            READY => {
                let files = Files::from_json(&self.shared.mailbox.reply_text());
                self.begin(id, files.unwrap_or_default());
            }
            SENSITIVE => {
                if let Some(it) = flight::jobs().get_mut(&id) {
                    it.job.becomes_sensitive();
                    it.stored = it.job.stored.clone();
                }
                self.begin(id, Files::default());
            }
            LATER => {
                let due = Some(Instant::now() + SHORTEST_SLEEP);
                self.pending.push_back(Pending { id, work: Work::Ask(step), due });
                return SHORTEST_SLEEP;
            }
            Answer::GIVEN_UP | Answer::LOST => {
                let table = self.shared.mailbox.table();
                let error = if answer == Answer::GIVEN_UP {
                    pg::Error::GivenUp { table, limit: foreign::LIMIT + foreign::GRACE }.to_string()
                } else {
                    MediaError::HelperEnded { table }.to_string()
                };
                if job.kind == Kind::Restrict && step == Step::Prepare {
                    // What is found without that table is moved all the same.
                    let error = Some(error);
                    self.begin(id, Files { recorded: vec![], error });
                    return IDLE;
                }
                let outcome = Outcome::Refused {
                    is_transient: true,
                    retry_after: None,
                    class: ErrorClass::Attachments,
                };
                self.give_up(&job, &step, outcome, error);
            }
            _ => return self.lay_down(id),
        }
        IDLE
    }

    /// A step is not done. A file that is stored already stays so.
    fn give_up(&mut self, job: &Job, step: &Step, outcome: Outcome, error: String) {
        let stored = match step {
            Step::Prepare => job.stored.clone(),
            Step::Record(attempt) => attempt.stored.clone(),
        };
        let error = Some(error);
        self.plan(job.id, Work::Settle(Attempt { stored, error, ..Attempt::new(outcome) }));
    }

    /// Records what needs no other process. Gives the time that is left of `time`.
    fn settle_own(&mut self, mut time: Duration) -> Duration {
        let now = Instant::now();
        for mut pending in std::mem::take(&mut self.pending) {
            if let Work::Settle(attempt) = &pending.work
                && pending.due.is_none_or(|due| due <= now)
            {
                let attempts = flight::jobs().get(&pending.id).map(|it| it.job.attempts);
                let Some(attempts) = attempts else { continue };
                if !matches!(
                    cycle::settle(pending.id, attempts, attempt),
                    Ok(Hold::Locked) | Err(())
                ) {
                    time = time.min(self.lay_down(pending.id));
                    continue;
                }
                pending.due = Some(now + SHORTEST_SLEEP);
            }
            self.pending.push_back(pending);
        }
        let waits = self.pending.iter().any(|pending| pending.due.is_some());
        if waits { time.min(SHORTEST_SLEEP) } else { time }
    }

    /// The job is recorded. Gives how long there is nothing more to do.
    fn lay_down(&mut self, id: Uuid) -> Duration {
        let removed = flight::jobs().remove(&id);
        // Another job can be claimed, or this one is due again at once.
        let goes_on = |it: flight::InFlight| !it.has_begun || it.job.is_sensitive;
        if removed.is_some_and(goes_on) { Duration::ZERO } else { IDLE }
    }
}
