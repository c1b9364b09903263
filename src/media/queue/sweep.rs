//! Files that are to be removed from the open bucket, as their tickets have become sensitive.

use pgrx::Uuid;

use super::{column, execute, rows};
use crate::error::Error;
use crate::media::job::{SWEEPING, SWEPT};

/// A file to be removed, from where it must not be any more.
#[derive(Debug, Clone)]
pub struct Sweep {
    pub id: Uuid,
    pub bucket: String,
    pub path: String,
}

/// Takes up to so many sweeps that are due. Each is due again after a while, whatever comes of it: so none
/// is lost with the process.
pub fn due_sweeps(limit: usize) -> Result<Vec<Sweep>, Error> {
    rows(
        "UPDATE civic.media_jobs
         SET sweep_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $2)
         WHERE id = ANY (ARRAY(
             SELECT id FROM civic.media_jobs WHERE sweep_at <= pg_catalog.clock_timestamp()
             ORDER BY sweep_at LIMIT $1 FOR UPDATE SKIP LOCKED))
         RETURNING id, former_bucket, path",
        &[(limit as i64).into(), SWEEPING.as_secs_f64().into()],
        |row| {
            Ok::<_, Error>(Sweep {
                id: column(row, 1)?,
                bucket: column(row, 2)?,
                path: column(row, 3)?,
            })
        },
    )
}

/// A file is not there, or not any more. Once its job has ended for long enough, that is for good.
pub fn end_sweep(id: Uuid) -> Result<(), Error> {
    execute(
        "UPDATE civic.media_jobs SET former_bucket = NULL, sweep_at = NULL
         WHERE id = $1 AND sweep_at IS NOT NULL
           AND finished_at <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2)",
        &[id.into(), SWEPT.as_secs_f64().into()],
    )
}
