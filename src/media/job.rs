//! Jobs and their attempts: rules without PostgreSQL.
//!
//! A job of kind `fetch` brings one file from Twilio to its bucket. A job of kind `restrict` moves every
//! file of a sensitive ticket out of the buckets that others read. A job is `queued` until the worker
//! claims it, `running` during an attempt, and then `queued` again, for another attempt, or ended: `done`,
//! `failed` or `cancelled`. A `restrict` job ends as `done` only.

use std::time::Duration;

use crate::events::channel::{self, Audience, Channel};
use crate::pg::shared::counters::{AttemptEnd, ErrorClass, JobEnd, KINDS};

/// The time between the first attempt and the second.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Each later delay is this many times the one before.
const FACTOR: f64 = 3.0;
/// The longest delay. It also limits Retry-After: a hostile header must not park a job for ever.
pub const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The time between a look that finds no file of a sensitive ticket in the open and the last look. An upload
/// whose answer was lost may still be under way inside the Storage API. No upload is known to take longer.
pub const LAST_LOOK_DELAY: Duration = Duration::from_secs(15 * 60);

/// What a job does, as `civic.media_jobs.kind` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Fetch,
    Restrict,
}

impl Kind {
    pub const ALL: [Kind; KINDS] = [Kind::Fetch, Kind::Restrict];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Fetch => "fetch",
            Kind::Restrict => "restrict",
        }
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Where a job stands, as `civic.media_jobs.state` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl State {
    pub const ALL: [State; 5] =
        [State::Queued, State::Running, State::Done, State::Failed, State::Cancelled];

    pub const fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }

    /// As monitoring counts it; `None` for a job that has not ended.
    pub const fn end(self) -> Option<JobEnd> {
        match self {
            State::Done => Some(JobEnd::Done),
            State::Failed => Some(JobEnd::Failed),
            State::Cancelled => Some(JobEnd::Cancelled),
            State::Queued | State::Running => None,
        }
    }

    /// What `civic.cancel_media_job()` makes of it; `None` where there is nothing left to cancel. One
    /// that runs is left to the worker, who alone knows whether the file has already got through.
    pub const fn when_cancelled(self) -> Option<State> {
        match self {
            State::Queued => Some(State::Cancelled),
            State::Running => Some(State::Running),
            State::Done | State::Failed | State::Cancelled => None,
        }
    }

    /// What `civic.retry_media_job()` makes of it: due at once. `None` for one that runs or is done.
    pub const fn when_retried(self) -> Option<State> {
        match self {
            State::Queued | State::Failed | State::Cancelled => Some(State::Queued),
            State::Running | State::Done => None,
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The object is where it belongs, by this attempt or by an earlier one.
    Stored,
    /// Files of a sensitive ticket were found, and moved.
    Moved,
    /// No file of a sensitive ticket was found in the open.
    Clean,
    /// It failed; whether another attempt may succeed, how long the server asks to be left alone, and why.
    Refused { is_transient: bool, retry_after: Option<Duration>, class: ErrorClass },
    /// It was cancelled before the file was stored.
    Cancelled,
    /// Another job of the municipality has held up other jobs: this one was not worked on.
    Postponed { delay: Duration },
    /// The worker was shut down before the transfer ended. The job is not to blame.
    Released,
    /// The worker was killed. That counts as an attempt: if the job is to blame, it is not repeated for
    /// ever.
    Interrupted,
}

impl Outcome {
    /// As monitoring counts it.
    pub const fn end(&self) -> AttemptEnd {
        match self {
            Outcome::Stored => AttemptEnd::Stored,
            Outcome::Moved => AttemptEnd::Moved,
            Outcome::Clean => AttemptEnd::Clean,
            Outcome::Refused { .. } => AttemptEnd::Failed,
            Outcome::Cancelled => AttemptEnd::Cancelled,
            Outcome::Postponed { .. } => AttemptEnd::Postponed,
            Outcome::Released => AttemptEnd::Released,
            Outcome::Interrupted => AttemptEnd::Interrupted,
        }
    }
}

/// A file that is out of the open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub bucket: String,
    pub path: String,
    /// Its path in the restricted bucket.
    pub target: String,
}

/// One try at a job, after its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub outcome: Outcome,
    /// Content type and size in bytes of what is stored.
    pub stored: Option<(String, u64)>,
    /// What a `restrict` job has moved. The attachments of these files are to be updated.
    pub moved: Vec<Moved>,
    /// Why it failed. It holds no secret.
    pub error: Option<String>,
}

impl Attempt {
    pub fn new(outcome: Outcome) -> Attempt {
        Attempt { outcome, stored: None, moved: vec![], error: None }
    }

    pub fn stored(content_type: String, size: u64) -> Attempt {
        Attempt { stored: Some((content_type, size)), ..Attempt::new(Outcome::Stored) }
    }

    /// It failed for a reason that may go away.
    pub fn failed(class: ErrorClass, error: String) -> Attempt {
        let outcome = Outcome::Refused { is_transient: true, retry_after: None, class };
        Attempt { error: Some(error), ..Attempt::new(outcome) }
    }
}

/// What happens to the job after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    End(State),
    /// Another attempt, after this time.
    Again(Duration),
    /// The same, and the attempt that has ended does not count.
    Uncounted(Duration),
    /// Another look for files in the open, after this time, with the full number of attempts.
    Look {
        delay: Duration,
        is_last: bool,
    },
}

/// What an attempt ended as, and the job that it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    pub kind: Kind,
    pub outcome: &'a Outcome,
    /// Whether a cancellation was asked for.
    pub is_cancelled: bool,
    /// Whether a `restrict` job has had a look that found nothing.
    pub is_last_look: bool,
    /// Attempts, with the one that has ended.
    pub attempts: u32,
}

/// `limit` is `civic.media_attempts`, `jitter` is a random number from 0 to 1.
pub fn next(ended: Ended<'_>, limit: u32, jitter: f64) -> Next {
    let Ended { kind, outcome, is_cancelled, is_last_look, attempts } = ended;
    let is_left = attempts < limit;
    match (kind, outcome) {
        (_, Outcome::Postponed { delay }) if kind == Kind::Restrict || !is_cancelled => {
            Next::Uncounted(*delay)
        }
        // It is never given up: a file in the open is worse than a job without end.
        (Kind::Restrict, Outcome::Clean) if is_last_look => Next::End(State::Done),
        (Kind::Restrict, Outcome::Clean) => Next::Look { delay: LAST_LOOK_DELAY, is_last: true },
        (Kind::Restrict, Outcome::Moved | Outcome::Stored) => {
            Next::Look { delay: Duration::ZERO, is_last: false }
        }
        (Kind::Restrict, Outcome::Released | Outcome::Cancelled) => Next::Uncounted(Duration::ZERO),
        (Kind::Restrict, Outcome::Refused { retry_after, .. }) if is_left => {
            Next::Again(delay(attempts, *retry_after, jitter))
        }
        (Kind::Restrict, Outcome::Interrupted) if is_left => Next::Again(Duration::ZERO),
        (Kind::Restrict, _) => Next::Again(LONGEST_DELAY),
        // The file is stored, even if a cancellation was asked for.
        (Kind::Fetch, Outcome::Stored | Outcome::Moved | Outcome::Clean) => Next::End(State::Done),
        (Kind::Fetch, Outcome::Cancelled) => Next::End(State::Cancelled),
        (Kind::Fetch, _) if is_cancelled => Next::End(State::Cancelled),
        (Kind::Fetch, Outcome::Released) => Next::Uncounted(Duration::ZERO),
        (Kind::Fetch, Outcome::Refused { is_transient: true, retry_after, .. }) if is_left => {
            Next::Again(delay(attempts, *retry_after, jitter))
        }
        (Kind::Fetch, Outcome::Interrupted) if is_left => Next::Again(Duration::ZERO),
        (Kind::Fetch, _) => Next::End(State::Failed),
    }
}

/// The time between an attempt and the next: exponential, and somewhere in the upper half of it, so that
/// jobs that failed together do not come back together. It is no shorter than a server asks for.
pub fn delay(attempts: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let exponent = f64::from(attempts.saturating_sub(1));
    let longest =
        (FIRST_DELAY.as_secs_f64() * FACTOR.powf(exponent)).min(LONGEST_DELAY.as_secs_f64());
    let spread = longest * (0.5 + 0.5 * jitter.clamp(0.0, 1.0));
    // What waits for one server's sake is spread as well.
    let asked =
        retry_after.unwrap_or_default().as_secs_f64() * (1.0 + 0.1 * jitter.clamp(0.0, 1.0));
    Duration::from_secs_f64(spread.max(asked).min(LONGEST_DELAY.as_secs_f64()))
}

/// What the channels of jobs begin with.
const CHANNEL_PREFIX: &str = "media_jobs:";

/// The channel on which the end of a municipality's job is published: those of sensitive tickets have
/// one of their own. `None` for a municipality that can have no channel, as with those of tickets.
pub fn channel(tenant_id: &str, is_sensitive: bool) -> Option<Channel> {
    let audience = if is_sensitive { Audience::Sensitive } else { Audience::Shared };
    channel::prefixed(CHANNEL_PREFIX, tenant_id, audience).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(is_transient: bool) -> Outcome {
        Outcome::Refused { is_transient, retry_after: None, class: ErrorClass::Busy }
    }

    fn fetch(outcome: &Outcome, is_cancelled: bool, attempts: u32, limit: u32) -> Next {
        let kind = Kind::Fetch;
        next(Ended { kind, outcome, is_cancelled, is_last_look: false, attempts }, limit, 0.5)
    }

    fn restrict(outcome: &Outcome, is_last_look: bool, attempts: u32, limit: u32) -> Next {
        let kind = Kind::Restrict;
        next(Ended { kind, outcome, is_cancelled: false, is_last_look, attempts }, limit, 0.5)
    }

    #[test]
    fn a_transient_failure_is_tried_again_up_to_the_limit() {
        assert!(matches!(fetch(&refused(true), false, 1, 3), Next::Again(_)));
        assert!(matches!(fetch(&refused(true), false, 2, 3), Next::Again(_)));
        assert_eq!(fetch(&refused(true), false, 3, 3), Next::End(State::Failed));
        // The limit may have been lowered meanwhile.
        assert_eq!(fetch(&refused(true), false, 4, 3), Next::End(State::Failed));
    }

    #[test]
    fn a_permanent_failure_is_not_tried_again() {
        assert_eq!(fetch(&refused(false), false, 1, 100), Next::End(State::Failed));
    }

    #[test]
    fn a_stored_file_is_done_even_at_the_last_attempt() {
        assert_eq!(fetch(&Outcome::Stored, false, 7, 3), Next::End(State::Done));
    }

    #[test]
    fn a_shutdown_costs_no_attempt_and_a_kill_costs_one() {
        assert_eq!(fetch(&Outcome::Released, false, 7, 3), Next::Uncounted(Duration::ZERO));
        assert_eq!(fetch(&Outcome::Interrupted, false, 1, 3), Next::Again(Duration::ZERO));
        assert_eq!(fetch(&Outcome::Interrupted, false, 3, 3), Next::End(State::Failed));
    }

    #[test]
    fn a_cancelled_job_is_not_tried_again_and_a_stored_file_is_done() {
        for outcome in [refused(true), refused(false), Outcome::Released, Outcome::Interrupted] {
            assert_eq!(fetch(&outcome, true, 1, 9), Next::End(State::Cancelled), "{outcome:?}");
        }
        assert_eq!(fetch(&Outcome::Stored, true, 1, 9), Next::End(State::Done));
    }

    #[test]
    fn a_ticket_is_restricted_after_two_looks_that_find_nothing() {
        let again = Next::Look { delay: Duration::ZERO, is_last: false };
        assert_eq!(restrict(&Outcome::Moved, false, 1, 3), again);
        assert_eq!(restrict(&Outcome::Moved, true, 1, 3), again);
        let last = Next::Look { delay: LAST_LOOK_DELAY, is_last: true };
        assert_eq!(restrict(&Outcome::Clean, false, 1, 3), last);
        assert_eq!(restrict(&Outcome::Clean, true, 1, 3), Next::End(State::Done));
    }

    #[test]
    fn a_ticket_is_restricted_however_often_that_fails() {
        for outcome in [refused(true), refused(false), Outcome::Interrupted] {
            assert!(matches!(restrict(&outcome, false, 2, 3), Next::Again(_)), "{outcome:?}");
            for attempts in [3, 4, 1000] {
                let next = restrict(&outcome, false, attempts, 3);
                assert_eq!(next, Next::Again(LONGEST_DELAY), "{outcome:?}");
            }
        }
    }

    #[test]
    fn the_first_delay_is_about_a_second_and_the_next_three_times_as_long() {
        assert_eq!(delay(1, None, 1.0), Duration::from_secs(1));
        assert_eq!(delay(2, None, 1.0), Duration::from_secs(3));
        assert_eq!(delay(3, None, 0.0), Duration::from_millis(4500));
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it() {
        assert!(delay(1, Some(Duration::from_secs(120)), 0.0) >= Duration::from_secs(120));
        // What it asks for does not shorten what the failures before ask for.
        assert!(delay(8, Some(Duration::from_secs(1)), 0.0) > Duration::from_secs(600));
    }

    #[test]
    fn a_state_has_one_name() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(State::from_name("Done"), None);
    }

    #[test]
    fn the_end_of_a_sensitive_job_is_not_heard_on_the_shared_channel() {
        let id = "00000000-0000-0000-0000-000000000001";
        assert_eq!(channel(id, false).unwrap().as_str(), format!("media_jobs:{id}"));
        assert_eq!(channel(id, true).unwrap().as_str(), format!("media_jobs:{id}:sensitive"));
        assert!(channel(&"x".repeat(53), false).is_none());
        assert!(channel(&"x".repeat(43), true).is_none());
    }

    /// Else a listener of the municipality "t:sensitive" would receive the sensitive jobs of "t".
    #[test]
    fn a_municipality_whose_id_ends_like_a_sensitive_channel_has_no_channel_of_jobs() {
        for is_sensitive in [false, true] {
            assert!(channel("t:sensitive", is_sensitive).is_none());
        }
        assert!(channel("", false).is_none());
    }

    proptest! {
        #[test]
        fn a_delay_stays_within_its_bounds(
            attempts in 0u32.., asked in proptest::option::of(0u64..), jitter in -1.0f64..2.0
        ) {
            let asked = asked.map(Duration::from_secs);
            let delay = delay(attempts, asked, jitter);
            prop_assert!(delay >= FIRST_DELAY / 2);
            prop_assert!(delay <= LONGEST_DELAY);
            prop_assert!(delay >= asked.unwrap_or_default().min(LONGEST_DELAY));
        }

        #[test]
        fn delays_never_shrink(attempts in 1u32..1000, jitter in 0.0f64..=1.0) {
            prop_assert!(delay(attempts, None, jitter) <= delay(attempts + 1, None, jitter));
        }

        #[test]
        fn two_jobs_that_failed_together_seldom_come_back_together(
            attempts in 1u32..20, one in 0.0f64..=1.0, other in 0.0f64..=1.0
        ) {
            prop_assume!((one - other).abs() > 0.01);
            prop_assert_ne!(delay(attempts, None, one), delay(attempts, None, other));
        }

        #[test]
        fn every_fetch_ends_within_its_limit(
            outcomes in prop::collection::vec((any::<bool>(), 0u64..100_000), 100), limit in 1u32..50
        ) {
            let mut ended = None;
            for (attempts, (is_transient, asked)) in (1..).zip(outcomes) {
                let retry_after = Some(Duration::from_secs(asked));
                let class = ErrorClass::Busy;
                let outcome = Outcome::Refused { is_transient, retry_after, class };
                if let Next::End(state) = fetch(&outcome, false, attempts, limit) {
                    ended = Some((state, attempts));
                    break;
                }
            }
            let (state, attempts) = ended.expect("it ends");
            prop_assert_eq!(state, State::Failed);
            prop_assert!(attempts <= limit);
        }
    }
}
