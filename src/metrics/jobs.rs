//! Metrics of the table of media jobs.

use std::time::Duration;

use serde_json::json;

use super::Metric;
use crate::error::Error;
use crate::media::job::Kind;
use crate::media::store;
use crate::pg::guc;
use crate::pg::lock_budget::LockBudget;
use crate::pg::subtransaction::attempt;

/// How long the metrics wait for locks on the table, in all. A scrape that waits for a REINDEX would be missing
/// with all of its metrics when they are needed most.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// None where this database has no table of jobs, or where it cannot be read in time.
pub fn metrics() -> Vec<Metric> {
    let Some(owner) = store::owner() else { return vec![] };
    let locks = LockBudget::new(LOCK_TIMEOUT);
    let read = || {
        store::as_owner(owner, || {
            locks.begin();
            guc::prefer_index_scans();
            locks.spend(of_table)
        })
    };
    attempt(|| read().map_err(drop), |_, _| ()).unwrap_or_default()
}

fn of_table() -> Result<Vec<Metric>, Error> {
    let mut metrics = vec![];
    for (kind, state, jobs) in store::counts()? {
        metrics.push(Metric::labelled(
            "pg_civic_media_jobs",
            "Media jobs by state, counted up to 100000.",
            json!({"kind": kind.name(), "state": state.name()}),
            jobs,
        ));
    }
    for kind in Kind::ALL {
        metrics.push(Metric::labelled(
            "pg_civic_media_oldest_due_seconds",
            "For how long the oldest due media job has been due, 0 if none is due.",
            json!({"kind": kind.name()}),
            store::oldest_due(kind)?,
        ));
    }
    Ok(metrics)
}
