//! Jobs that have held up the process that works on other people's tables. Those of their municipality
//! wait a while, so that others' go on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::Uuid;

use crate::pg::foreign;

/// A job that takes less holds up nobody: so long takes an ordinary one on a busy machine.
const NOTICED: Duration = Duration::from_secs(2);
/// How long the jobs of such a municipality wait: so many times as long as the one has taken, and no
/// longer than this. So others have most of the time, however close to the limit each job stays.
const SHARE: u32 = 2;
const HOLD: Duration = Duration::from_secs(10);
/// How long a job that has held up others comes last.
const LAST: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub struct Stalls {
    /// Until when jobs of a municipality wait.
    tenants: HashMap<String, Instant>,
    /// Until when a job comes last.
    jobs: HashMap<Uuid, Instant>,
}

impl Stalls {
    /// A step of a job of this municipality has taken so long.
    pub fn note(&mut self, tenant_id: &str, job: Uuid, took: Duration, now: Instant) {
        if took < NOTICED {
            return;
        }
        self.tenants.retain(|_, until| *until > now);
        self.jobs.retain(|_, until| *until > now);
        self.tenants.insert(tenant_id.to_owned(), now + (took * SHARE).min(HOLD));
        if took >= foreign::LIMIT {
            self.jobs.insert(job, now + LAST);
        }
    }

    /// How long the municipality's jobs wait; `None` where they do not.
    pub fn held(&self, tenant_id: &str, now: Instant) -> Option<Duration> {
        let left = self.tenants.get(tenant_id)?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Whether a job comes after all others.
    pub fn is_last(&self, job: Uuid, now: Instant) -> bool {
        self.jobs.get(&job).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_municipality_waits_for_its_own_stall_alone_and_not_for_ever() {
        let (mut stalls, now) = (Stalls::default(), Instant::now());
        let job = Uuid::from_bytes([1; 16]);
        stalls.note("a", job, foreign::LIMIT, now);
        assert_eq!(stalls.held("a", now), Some(HOLD));
        assert_eq!(stalls.held("b", now), None);
        assert_eq!(stalls.held("a", now + HOLD), None);
        assert!(stalls.is_last(job, now + HOLD) && !stalls.is_last(job, now + LAST));
        stalls.note("b", Uuid::from_bytes([2; 16]), foreign::LIMIT, now + LAST);
        assert_eq!((stalls.tenants.len(), stalls.jobs.len()), (1, 1), "what is over is forgotten");
    }
    #[test]
    fn a_municipality_whose_job_ends_within_the_limit_waits_in_proportion() {
        let (mut stalls, now) = (Stalls::default(), Instant::now());
        let job = Uuid::from_bytes([1; 16]);
        stalls.note("a", job, NOTICED / 2, now);
        assert_eq!(stalls.held("a", now), None);
        stalls.note("a", job, NOTICED, now);
        assert_eq!(stalls.held("a", now), Some(NOTICED * SHARE));
        assert!(!stalls.is_last(job, now), "it may just be slow");
    }
}
