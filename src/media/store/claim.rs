//! Which jobs come next: those of each municipality in turn, the longest due first within one.

use std::collections::HashMap;

use super::{Job, read_job, restrict, rows};
use crate::error::Error;
use crate::media::job::Kind;
use crate::pg::Row;

/// Where the turns of the municipalities stand, for each kind of job. The worker keeps it: a claim goes on
/// after the municipality whose job was claimed last.
#[derive(Debug, Default)]
pub struct Turns([Option<String>; Kind::ALL.len()]);

/// How many transfers of each municipality are under way, and how many it may have.
pub struct Shares {
    pub running: HashMap<String, usize>,
    pub limit: usize,
}

impl Shares {
    /// The municipalities that have their share.
    fn full(&self) -> Vec<String> {
        let full = self.running.iter().filter(|(_, number)| **number >= self.limit);
        full.map(|(tenant_id, _)| tenant_id.clone()).collect()
    }
}

/// Claims up to so many jobs of a kind that are due. Municipalities that have their share are passed by, and
/// so are jobs that a session has locked.
pub fn claim(
    kind: Kind,
    limit: usize,
    shares: &mut Shares,
    turns: &mut Turns,
) -> Result<Vec<Job>, Error> {
    let turn = &mut turns.0[kind as usize];
    let mut jobs: Vec<Job> = vec![];
    while jobs.len() < limit {
        let round = round(kind, limit - jobs.len(), turn.as_deref(), &shares.full())?;
        if round.is_empty() && turn.is_none() {
            break;
        }
        // After the last municipality it is the first one's turn again.
        *turn = round.iter().map(|job| job.tenant_id.clone()).max();
        for job in &round {
            *shares.running.entry(job.tenant_id.clone()).or_default() += 1;
        }
        jobs.extend(round);
    }
    if kind == Kind::Restrict {
        jobs.iter().try_for_each(|job| restrict::merge(job).and_then(|()| restrict::cover(job)))?;
    }
    Ok(jobs)
}

/// One job each of the municipalities that are next, in the order of their ids' bytes, as Rust has it. The index is read at one
/// place per municipality, however many jobs wait.
macro_rules! round {
    ($is_next:literal) => {
        concat!(
            "WITH RECURSIVE tenants (tenant_id) AS (
                 (SELECT job.tenant_id COLLATE \"C\" FROM civic.media_jobs job
                  WHERE job.state = 'queued' AND job.kind = $1 AND ",
            $is_next,
            "     ORDER BY job.tenant_id COLLATE \"C\" LIMIT 1)
                 UNION ALL
                 SELECT (SELECT job.tenant_id COLLATE \"C\" FROM civic.media_jobs job
                         WHERE job.state = 'queued' AND job.kind = $1
                           AND job.tenant_id COLLATE \"C\" > it.tenant_id
                         ORDER BY job.tenant_id COLLATE \"C\" LIMIT 1)
                 FROM tenants it WHERE it.tenant_id IS NOT NULL)
             UPDATE civic.media_jobs
             SET state = 'running', attempts = attempts + 1, next_attempt_at = NULL,
                 started_at = pg_catalog.clock_timestamp()
             WHERE id = ANY (ARRAY(
                 SELECT due.id FROM tenants it CROSS JOIN LATERAL (
                     SELECT job.id FROM civic.media_jobs job
                     WHERE job.state = 'queued' AND job.kind = $1
                       AND job.tenant_id COLLATE \"C\" = it.tenant_id
                       AND job.next_attempt_at <= pg_catalog.now()
                     ORDER BY job.next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED) due
                 WHERE it.tenant_id <> ALL ($3)
                 LIMIT $2))
             RETURNING ",
            job_columns!()
        )
    };
}

fn round(
    kind: Kind,
    limit: usize,
    after: Option<&str>,
    full: &[String],
) -> Result<Vec<Job>, Error> {
    let read = |row: &Row<'_, '_>| read_job(row);
    let (kind, limit, full) = (kind.name(), limit as i64, full.to_vec());
    match after {
        None => rows(round!("true"), &[kind.into(), limit.into(), full.into()], read),
        Some(after) => rows(
            round!("job.tenant_id COLLATE \"C\" > $4"),
            &[kind.into(), limit.into(), full.into(), after.into()],
            read,
        ),
    }
}
