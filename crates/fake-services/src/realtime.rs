//! Supabase Realtime's rate limit, without a server and without a clock.
//!
//! Realtime counts each message and each delivery of it (`max_events_per_second` of the tenant, for the whole
//! project). Every five seconds it takes the mean of the last twelve counts. While the mean reaches the limit,
//! it drops each broadcast of the database: the channels stay joined, and no client notices.

use std::collections::VecDeque;
use std::time::Duration;

/// How long one count lasts.
const TICK: Duration = Duration::from_secs(5);
/// How many counts the mean is taken of.
const COUNTS: usize = 12;

/// The limit of one project.
#[derive(Debug)]
pub struct RateLimit {
    events_per_second: u64,
    /// The counts of the last ticks, the newest last.
    counts: VecDeque<u64>,
    /// The count of the running tick, and its number.
    count: u64,
    tick: u64,
}

impl RateLimit {
    pub fn new(events_per_second: u64) -> RateLimit {
        RateLimit { events_per_second, counts: VecDeque::new(), count: 0, tick: 0 }
    }

    /// The database broadcasts a message on a topic that this many clients have joined, this long after the
    /// start. Times do not go back. Returns how many clients receive it: all or none.
    pub fn broadcast(&mut self, at: Duration, clients: u64) -> u64 {
        self.advance(at);
        if self.is_exceeded() {
            return 0;
        }
        self.count += 1 + clients;
        clients
    }

    /// Whether broadcasts are dropped.
    fn is_exceeded(&self) -> bool {
        let seconds = self.counts.len() as u64 * TICK.as_secs();
        let sum: u64 = self.counts.iter().sum();
        seconds > 0 && sum >= self.events_per_second * seconds
    }

    fn advance(&mut self, at: Duration) {
        let tick = at.as_secs() / TICK.as_secs();
        for _ in self.tick..tick {
            self.counts.push_back(std::mem::take(&mut self.count));
            if self.counts.len() > COUNTS {
                self.counts.pop_front();
            }
        }
        self.tick = tick.max(self.tick);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit that has been idle for a minute, and the time after that.
    fn idle(events_per_second: u64) -> (RateLimit, Duration) {
        let mut limit = RateLimit::new(events_per_second);
        let now = TICK * COUNTS as u32;
        limit.advance(now);
        (limit, now)
    }

    /// How long no message is received at a time, in seconds, of so many a second for ten minutes.
    fn silences(limit: u64, per_second: u64, clients: u64) -> Vec<u64> {
        let (mut limit, start) = idle(limit);
        let (mut silences, mut silent) = (vec![], 0);
        for second in 0..600 {
            let at = start + Duration::from_secs(second);
            let received: u64 = (0..per_second).map(|_| limit.broadcast(at, clients)).sum();
            match received {
                0 => silent += 1,
                _ if silent > 0 => silences.push(std::mem::take(&mut silent)),
                _ => {}
            }
        }
        silences
    }

    /// As measured with the real server: six tickets a second before twenty dashboards.
    #[test]
    fn a_rate_a_little_over_the_limit_is_silent_for_fifteen_seconds_at_a_time() {
        let silences = silences(100, 6, 20);
        assert!(
            silences.len() > 5 && silences.iter().all(|seconds| *seconds == 15),
            "{silences:?}"
        );
    }

    /// As measured with the real server: 2,000 tickets in one transaction before five dashboards.
    #[test]
    fn a_large_transaction_arrives_and_then_nothing_does_for_about_a_minute() {
        let (mut limit, start) = idle(100);
        let received: u64 = (0..2000).map(|_| limit.broadcast(start, 5)).sum();
        assert_eq!(received, 10_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let lost: Vec<_> = (1..90).filter(|second| limit.broadcast(at(*second), 5) == 0).collect();
        assert_eq!((lost.first(), lost.last()), (Some(&5), Some(&64)));
    }

    #[test]
    fn below_the_limit_nothing_is_lost() {
        assert_eq!(silences(100, 4, 20), [0; 0]);
        assert_eq!(silences(100, 99, 0), [0; 0]);
        assert_eq!(silences(20_000, 900, 20), [0; 0]);
    }

    /// The rows of docs/operations.md: how many tickets a second, or a minute in one transaction, a limit carries.
    #[test]
    fn the_arithmetic_of_the_documentation_is_that_of_the_limit() {
        let documented = include_str!("../../../docs/operations.md");
        for limit in [100_u64, 1000, 20_000] {
            for dashboards in [5_u64, 20, 100] {
                let (each, minute) = (1 + dashboards, 60 * limit);
                let tenths = 10 * limit / each;
                let row = format!(
                    "| {limit} | {dashboards} | {}.{} | {} |",
                    tenths / 10,
                    tenths % 10,
                    minute / each
                );
                assert!(documented.contains(&row), "docs/operations.md lacks the row {row}");

                let is_lost = |tickets: u64| {
                    let (mut limit, start) = idle(limit);
                    (0..tickets).for_each(|_| {
                        limit.broadcast(start, dashboards);
                    });
                    limit.broadcast(start + TICK, dashboards) == 0
                };
                assert!(is_lost(minute.div_ceil(each)) && !is_lost((minute - 1) / each), "{row}");
                let per_second = limit / each;
                if per_second > 0 {
                    assert_eq!(
                        silences(limit, per_second.min((limit - 1) / each), dashboards),
                        [0; 0],
                        "{row}"
                    );
                }
                assert_ne!(silences(limit, limit.div_ceil(each), dashboards), [0; 0], "{row}");
            }
        }
    }
}
