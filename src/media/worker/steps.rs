//! What becomes of a job in hand before and after its transfer, one step at a time: the process that
//! works on other people's tables does what these take part in.

use std::time::{Duration, Instant};

use pgrx::Uuid;

use super::{IDLE, SHORTEST_SLEEP, Worker};
use crate::media::MediaError;
use crate::media::in_hand::{self, InHand};
use crate::media::job::{Outcome, Report};
use crate::media::queue::{Claim, Hold};
use crate::media::request::{Request, Step};
use crate::media::tables::{LOCKED, READY, SENSITIVE};
use crate::media::turn;
use crate::pg;
use crate::pg::foreign;
use crate::pg::mailbox::Answer;
use crate::pg::shared::Shared;

/// The next step of a job in hand.
pub(super) struct Pending {
    pub id: Uuid,
    pub work: Work,
    /// Not before this, where a session has locked the job's row.
    pub due: Option<Instant>,
}

pub(super) enum Work {
    /// The other process does it.
    Ask(Step),
    /// This process records it, without other people's tables.
    Settle(Report),
}

/// A step that the other process has been asked to do.
pub(super) struct Asked {
    pub number: u64,
    pub pending: Pending,
    pub since: Instant,
    /// Whether the try that it belongs to is recorded, and the job claimed again: its answer is still to
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

    /// Takes a claimed job in hand.
    pub(super) fn takes(&mut self, claim: Claim) {
        let (id, is_sensitive) = (claim.id, claim.is_sensitive);
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.pending.id == id) {
            asked.is_over = true;
        }
        let stored = claim.stored.clone();
        let cancel = civic_http::Cancel::new();
        let in_hand = InHand { claim, cancel, has_begun: false, stored };
        in_hand::jobs().insert(id, in_hand);
        // Nothing makes a sensitive job an ordinary one.
        if is_sensitive { self.begin(id) } else { self.plan(id, Work::Ask(Step::Prepare)) }
    }

    /// A try has ended, and is to be recorded.
    pub(super) fn ends(&mut self, id: Uuid, report: Report) {
        let is_sensitive = {
            let mut jobs = in_hand::jobs();
            let Some(job) = jobs.get_mut(&id) else { return };
            if report.stored.is_some() {
                job.stored = report.stored.clone();
            }
            job.claim.is_sensitive
        };
        let needs_no_table = is_sensitive && report.stored.is_none();
        let work = Work::Ask(Step::Record(report));
        self.plan(
            id,
            match work {
                Work::Ask(Step::Record(report)) if needs_no_table => Work::Settle(report),
                work => work,
            },
        );
    }

    pub(super) fn plan(&mut self, id: Uuid, work: Work) {
        self.pending.push_back(Pending { id, work, due: None });
    }

    /// Does what can be done next. Gives how long there is nothing more to do: no time at all where a
    /// file may be in the open.
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
        let claim = in_hand::jobs().get(&id).map(|job| job.claim.clone());
        let (Some(claim), Work::Ask(step)) = (claim, &pending.work) else { return };
        if let Some(left) = self.stalls.held(&claim.tenant_id, Instant::now()) {
            let error =
                MediaError::TenantStalled { tenant_id: claim.tenant_id.clone() }.to_string();
            self.give_up(&claim, step, Outcome::Postponed { delay: left }, error);
            return;
        }
        let request = Request { id, tries: claim.tries, step: step.clone() }.to_json();
        let number = self.shared.mailbox.send(request.as_bytes());
        self.shared.media_tables.wake();
        self.asked = Some(Asked { number, pending, since: Instant::now(), is_over: false });
    }

    fn answered(&mut self, asked: Asked, answer: Answer) -> Duration {
        let Asked { pending: Pending { id, work, .. }, since, is_over, .. } = asked;
        if is_over {
            return IDLE;
        }
        let claim = in_hand::jobs().get(&id).map(|job| job.claim.clone());
        let (Some(claim), Work::Ask(step)) = (claim, work) else { return IDLE };
        self.stalls.note(&claim.tenant_id, id, since.elapsed(), Instant::now());
        match answer {
            READY => self.begin(id),
            SENSITIVE => {
                if let Some(job) = in_hand::jobs().get_mut(&id) {
                    job.claim.takes_cover();
                    job.stored = job.claim.stored.clone();
                }
                self.begin(id);
            }
            LOCKED => {
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
                let outcome = Outcome::Refused { may_heal: true, retry_after: None };
                self.give_up(&claim, &step, outcome, error);
            }
            _ => return self.lay_down(id, &claim),
        }
        IDLE
    }

    /// A step is not done. A file that is stored already stays so.
    fn give_up(&mut self, claim: &Claim, step: &Step, outcome: Outcome, error: String) {
        let stored = match step {
            Step::Prepare => claim.stored.clone(),
            Step::Record(report) => report.stored.clone(),
        };
        let error = Some(error);
        self.plan(claim.id, Work::Settle(Report { outcome, stored, error }));
    }

    /// Records what needs no other process. Gives the time that is left of `time`.
    fn settle_own(&mut self, mut time: Duration) -> Duration {
        let now = Instant::now();
        for mut pending in std::mem::take(&mut self.pending) {
            if let Work::Settle(report) = &pending.work
                && pending.due.is_none_or(|due| due <= now)
            {
                let claim = in_hand::jobs().get(&pending.id).map(|job| job.claim.clone());
                let Some(claim) = claim else { continue };
                if turn::settle(claim.id, claim.tries, report) != Hold::Locked {
                    time = time.min(self.lay_down(claim.id, &claim));
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
    fn lay_down(&mut self, id: Uuid, claim: &Claim) -> Duration {
        let has_begun = in_hand::jobs().remove(&id).is_some_and(|job| job.has_begun);
        // A file may be in the open, or another job can be claimed.
        if claim.former_bucket.is_some() || !has_begun { Duration::ZERO } else { IDLE }
    }
}
