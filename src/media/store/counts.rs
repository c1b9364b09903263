//! Counts of jobs, for monitoring.

use super::{column, rows};
use crate::error::Error;
use crate::media::job::{Kind, State};

/// Jobs are counted up to this number, so that a scrape costs the same however long the queue is.
const COUNTED: i64 = 100_000;

/// How many jobs of a kind are in a state, up to [`COUNTED`]. Each state is read in an index of its own.
fn count(kind: Kind, state: State) -> Result<i64, Error> {
    let sql = match state {
        State::Queued => {
            "SELECT pg_catalog.count(*) FROM (
                 SELECT FROM civic.media_jobs WHERE state = 'queued' AND kind = $1 LIMIT $2) job"
        }
        State::Running => {
            "SELECT pg_catalog.count(*) FROM (
                 SELECT FROM civic.media_jobs WHERE state = 'running' AND kind = $1 LIMIT $2) job"
        }
        State::Done | State::Failed | State::Cancelled => {
            "SELECT pg_catalog.count(*) FROM (
                 SELECT FROM civic.media_jobs
                 WHERE state = $3 AND kind = $1 AND finished_at IS NOT NULL LIMIT $2) job"
        }
    };
    let arguments = [kind.name().into(), COUNTED.into(), state.name().into()];
    let arguments = if state.end().is_some() { &arguments[..] } else { &arguments[..2] };
    let counts = rows(sql, arguments, |row| column(row, 1))?;
    Ok(counts.into_iter().next().unwrap_or_default())
}

/// The number of jobs of each kind in each state, up to [`COUNTED`].
pub fn counts() -> Result<Vec<(Kind, State, i64)>, Error> {
    let each = Kind::ALL.into_iter().flat_map(|kind| State::ALL.map(|state| (kind, state)));
    each.map(|(kind, state)| Ok((kind, state, count(kind, state)?))).collect()
}

/// For how many seconds the oldest due job of a kind has been due; 0 where none is.
pub fn oldest_due(kind: Kind) -> Result<f64, Error> {
    let seconds = rows(
        "SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - next_attempt_at)
         FROM civic.media_jobs WHERE state = 'queued' AND kind = $1
         ORDER BY next_attempt_at LIMIT 1",
        &[kind.name().into()],
        |row| column::<f64>(row, 1),
    )?;
    Ok(seconds.first().copied().unwrap_or_default().max(0.0))
}
