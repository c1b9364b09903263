//! What becomes of a job after each try, and who hears of its end: rules without PostgreSQL.
//!
//! A job is `queued` until a worker claims it, `running` while its transfer is under way, and then
//! `queued` again, for another try, or at its end: `done`, `failed` or `cancelled`.

use std::time::Duration;

use crate::events::channel::{self, Audience, Channel};

/// How long after its first failed try a job is tried again.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Each further delay is so many times the one before.
const FACTOR: f64 = 3.0;
/// No delay is longer, not even one that a server asks for with Retry-After: a hostile header must
/// not park a job for ever.
pub const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// How often a file is removed from where it must not be any more. Not once: an upload whose answer was
/// lost may still be under way inside the Storage API, and come through later.
pub const SWEEPING: Duration = Duration::from_secs(60);
/// How long after the end of its job that goes on. No upload is known to take as long as this.
pub const SWEPT: Duration = Duration::from_secs(15 * 60);

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

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The object is where it belongs, by this try or by one before it.
    Stored,
    /// It was not; whether another try may mend it, and how long the server asks to be left alone.
    Refused { may_heal: bool, retry_after: Option<Duration> },
    /// It was cancelled before it was stored.
    Cancelled,
    /// Another job has held up those of its municipality: this one was not worked on.
    Postponed { delay: Duration },
    /// The worker ended in good order before the transfer did: no fault of the job's.
    Released,
    /// The worker was killed meanwhile. That counts as a try: should the job be to blame, it is
    /// not for ever.
    Interrupted,
}

/// How a try ended, with what the row says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub outcome: Outcome,
    /// Content type and size in bytes of what is stored.
    pub stored: Option<(String, u64)>,
    /// Why it is not. No secret is in it.
    pub error: Option<String>,
}

impl Report {
    /// The try failed for a reason that another one may not meet.
    pub fn refused(error: String) -> Report {
        let outcome = Outcome::Refused { may_heal: true, retry_after: None };
        Report { outcome, stored: None, error: Some(error) }
    }
}

/// What becomes of the job then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    End(State),
    /// Another try, after this time.
    Again(Duration),
    /// Another try at once, and this one does not count.
    Anew,
    /// Another try after this time, and this one does not count.
    Later(Duration),
}

/// `is_cancelled` says that somebody has asked for it meanwhile, `tries` counts the one that has just
/// ended, `limit` is `civic.media_attempts`, `jitter` is a random number from 0 to 1.
pub fn next(outcome: &Outcome, is_cancelled: bool, tries: u32, limit: u32, jitter: f64) -> Next {
    match outcome {
        // It has got through, whatever else.
        Outcome::Stored => Next::End(State::Done),
        Outcome::Cancelled => Next::End(State::Cancelled),
        _ if is_cancelled => Next::End(State::Cancelled),
        Outcome::Released => Next::Anew,
        Outcome::Postponed { delay } => Next::Later(*delay),
        Outcome::Refused { may_heal: true, retry_after } if tries < limit => {
            Next::Again(delay(tries, *retry_after, jitter))
        }
        Outcome::Interrupted if tries < limit => Next::Again(Duration::ZERO),
        Outcome::Refused { .. } | Outcome::Interrupted => Next::End(State::Failed),
    }
}

/// The time between a try and the next: exponential, and somewhere in the upper half of it, so that
/// jobs that failed together do not come back together. Where a server names a time it is no shorter.
pub fn delay(tries: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let exponent = f64::from(tries.saturating_sub(1));
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

    fn refused(may_heal: bool) -> Outcome {
        Outcome::Refused { may_heal, retry_after: None }
    }

    #[test]
    fn what_may_heal_is_tried_again_up_to_the_limit() {
        assert!(matches!(next(&refused(true), false, 1, 3, 0.5), Next::Again(_)));
        assert!(matches!(next(&refused(true), false, 2, 3, 0.5), Next::Again(_)));
        assert_eq!(next(&refused(true), false, 3, 3, 0.5), Next::End(State::Failed));
        // The limit may have been lowered meanwhile.
        assert_eq!(next(&refused(true), false, 4, 3, 0.5), Next::End(State::Failed));
    }

    #[test]
    fn what_cannot_heal_fails_at_the_first_try() {
        assert_eq!(next(&refused(false), false, 1, 100, 0.5), Next::End(State::Failed));
    }

    #[test]
    fn what_is_stored_is_done_even_at_the_last_try() {
        assert_eq!(next(&Outcome::Stored, false, 7, 3, 0.5), Next::End(State::Done));
    }

    #[test]
    fn a_worker_that_ends_costs_no_try() {
        assert_eq!(next(&Outcome::Released, false, 7, 3, 0.5), Next::Anew);
    }

    #[test]
    fn a_worker_that_is_killed_costs_one() {
        assert_eq!(next(&Outcome::Interrupted, false, 1, 3, 0.5), Next::Again(Duration::ZERO));
        assert_eq!(next(&Outcome::Interrupted, false, 3, 3, 0.5), Next::End(State::Failed));
    }

    #[test]
    fn what_was_cancelled_is_not_tried_again_and_what_got_through_is_done() {
        for outcome in [refused(true), refused(false), Outcome::Released, Outcome::Interrupted] {
            assert_eq!(next(&outcome, true, 1, 9, 0.5), Next::End(State::Cancelled), "{outcome:?}");
        }
        assert_eq!(next(&Outcome::Stored, true, 1, 9, 0.5), Next::End(State::Done));
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
            tries in 0u32.., asked in proptest::option::of(0u64..), jitter in -1.0f64..2.0
        ) {
            let asked = asked.map(Duration::from_secs);
            let delay = delay(tries, asked, jitter);
            prop_assert!(delay >= FIRST_DELAY / 2);
            prop_assert!(delay <= LONGEST_DELAY);
            prop_assert!(delay >= asked.unwrap_or_default().min(LONGEST_DELAY));
        }

        #[test]
        fn delays_never_shrink_from_try_to_try(tries in 1u32..1000, jitter in 0.0f64..=1.0) {
            prop_assert!(delay(tries, None, jitter) <= delay(tries + 1, None, jitter));
        }

        #[test]
        fn two_jobs_that_failed_together_seldom_come_back_together(
            tries in 1u32..20, one in 0.0f64..=1.0, other in 0.0f64..=1.0
        ) {
            prop_assume!((one - other).abs() > 0.01);
            prop_assert_ne!(delay(tries, None, one), delay(tries, None, other));
        }

        /// Whatever happens, a job comes to its end within the limit of tries that count.
        #[test]
        fn every_job_ends(outcomes in prop::collection::vec((any::<bool>(), 0u64..100_000), 100), limit in 1u32..50) {
            let mut ended = None;
            for (tries, (may_heal, asked)) in (1..).zip(outcomes) {
                let outcome = Outcome::Refused { may_heal, retry_after: Some(Duration::from_secs(asked)) };
                if let Next::End(state) = next(&outcome, false, tries, limit, 0.5) {
                    ended = Some((state, tries));
                    break;
                }
            }
            let (state, tries) = ended.expect("it ends");
            prop_assert_eq!(state, State::Failed);
            prop_assert!(tries <= limit);
        }
    }
}
