//! Runs the sides of a case in turn and computes the median of their times.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::Error;

/// One side of a case: runs once and returns the measured time.
pub type Side<'a> = &'a mut dyn FnMut() -> Result<Duration, Error>;

/// Runs the sides in turn and returns the seconds of each round, side by side. Each round starts
/// with another side, so that no side always follows the same one.
pub fn in_turn<const N: usize>(
    progress: &mut Progress,
    rounds: usize,
    sides: [Side<'_>; N],
) -> Result<[Vec<f64>; N], Error> {
    let mut seconds = [const { Vec::new() }; N];
    for round in 0..rounds {
        for turn in 0..N {
            let side = (round + turn) % N;
            progress.at(&format!("round {} of {rounds}, side {} of {N}", round + 1, turn + 1));
            seconds[side].push(sides[side]()?.as_secs_f64());
        }
    }
    Ok(seconds)
}

/// Measures the time of a session: wall-clock time minus the time that its backend waited for a
/// processor.
pub struct Clock {
    /// Linux reports the waiting time here; elsewhere wall-clock time is used.
    schedstat: PathBuf,
}

impl Clock {
    pub fn of(session: &mut Client) -> Result<Clock, Error> {
        let backend: i32 = session.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        Ok(Clock { schedstat: format!("/proc/{backend}/schedstat").into() })
    }

    pub fn time(&self, action: impl FnOnce() -> Result<(), Error>) -> Result<Duration, Error> {
        let waited_before = self.waited();
        let start = Instant::now();
        action()?;
        let elapsed = start.elapsed();
        Ok(elapsed.saturating_sub(self.waited().saturating_sub(waited_before)))
    }

    /// How long the backend has waited for a processor.
    fn waited(&self) -> Duration {
        let schedstat = std::fs::read_to_string(&self.schedstat).unwrap_or_default();
        let nanoseconds = schedstat.split_whitespace().nth(1).and_then(|field| field.parse().ok());
        Duration::from_nanos(nanoseconds.unwrap_or(0))
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        _ if sorted.is_empty() => f64::NAN,
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// The difference of each round to the same round of another side.
pub fn over(rounds: &[f64], base: &[f64]) -> Vec<f64> {
    rounds.iter().zip(base).map(|(side, base)| side - base).collect()
}

/// The time per call in each round.
pub fn each(rounds: &[f64], calls: usize) -> Vec<f64> {
    rounds.iter().map(|seconds| seconds / calls as f64).collect()
}

/// Reports progress on standard error: each step, and every few seconds how far it is.
pub struct Progress {
    started: Instant,
    reported: Instant,
    case: usize,
    cases: usize,
}

impl Progress {
    pub fn new(cases: usize) -> Progress {
        Progress { started: Instant::now(), reported: Instant::now(), case: 0, cases }
    }

    pub fn begin(&mut self, case: &str) {
        self.case += 1;
        self.report(&format!("{} of {}: {case}", self.case, self.cases));
    }

    pub fn report(&mut self, what: &str) {
        eprintln!("[{:>3} s] {what}", self.started.elapsed().as_secs());
        self.reported = Instant::now();
    }

    pub fn at(&mut self, how_far: &str) {
        if self.reported.elapsed() > Duration::from_secs(5) {
            self.report(&format!("    {how_far}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_sides_take_turns_to_run_first() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name| {
            order.borrow_mut().push(name);
            Ok(Duration::from_secs(1))
        };
        let rounds = [&mut || side('a'), &mut || side('b')] as [Side<'_>; 2];
        let seconds = in_turn(&mut Progress::new(1), 3, rounds).unwrap();
        assert_eq!(order.into_inner(), "abbaab");
        assert_eq!(seconds, [vec![1.0; 3], vec![1.0; 3]]);
    }
}
