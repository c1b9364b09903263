//! Jobs that move the files of a sensitive ticket out of the open.
//!
//! A ticket has one such job at a time: one that waits is due again, and those that were added meanwhile
//! are merged when one is claimed. Adding one waits for no lock that another transaction has on a job, so
//! that a ticket's write is held up by neither the worker nor another session.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgLogLevel, Uuid};

use super::{Job, as_owner, column, execute, owner, rows};
use crate::error::Error;
use crate::pg::subtransaction::attempt;
use crate::pg::{self, shared, table};
use crate::storage::api as service;
use crate::storage::bucket::Bucket;
use crate::tickets::ticket::TicketId;
use crate::tickets::transitions::{self, Transition};

/// Adds a job that moves the ticket's files, or makes the one that waits due again.
fn restrict(tenant_id: &str, ticket_id: &str, may_wait: bool) -> Result<(), Error> {
    let ticket = TicketId::new(ticket_id);
    let ticket = [tenant_id.into(), ticket.canonical().into()];
    if may_wait {
        // Its row is locked until the commit. So the worker looks for files when everybody can see that the
        // ticket is sensitive.
        let waiting = rows(
            "UPDATE civic.media_jobs
             SET next_attempt_at = pg_catalog.now(), attempts = 0, last_look = false,
                 created_at = CASE WHEN last_look THEN pg_catalog.now() ELSE created_at END
             WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY(
                 SELECT id FROM civic.media_jobs
                 WHERE kind OPERATOR(pg_catalog.=) 'restrict' AND state OPERATOR(pg_catalog.=) 'queued'
                   AND tenant_id OPERATOR(pg_catalog.=) $1 AND ticket_id OPERATOR(pg_catalog.=) $2
                 LIMIT 1 FOR UPDATE SKIP LOCKED))
             RETURNING id",
            &ticket,
            |_| Ok::<_, Error>(()),
        )?;
        if !waiting.is_empty() {
            return Ok(());
        }
    }
    execute(
        "INSERT INTO civic.media_jobs (kind, tenant_id, ticket_id, is_sensitive, bucket)
         VALUES ('restrict', $1, $2, true, 'gbv-evidence')",
        &ticket,
    )
}

/// Removes the ticket's other jobs that wait: the one that is claimed looks for files later than they
/// were added.
pub(super) fn merge(job: &Job) -> Result<(), Error> {
    let last_looks = rows(
        "DELETE FROM civic.media_jobs WHERE id = ANY (ARRAY(
             SELECT id FROM civic.media_jobs
             WHERE kind = 'restrict' AND state = 'queued' AND tenant_id = $1 AND ticket_id = $2
             FOR UPDATE SKIP LOCKED))
         RETURNING last_look",
        &[job.tenant_id.as_str().into(), job.ticket_id.as_str().into()],
        |row| column::<bool>(row, 1),
    )?;
    if last_looks.contains(&false) {
        execute("UPDATE civic.media_jobs SET last_look = false WHERE id = $1", &[job.id.into()])?;
    }
    Ok(())
}

/// The ticket's other jobs are sensitive too, those that have ended as well: who may not read a file does
/// not see its job. One that runs looks at its ticket by itself.
pub(super) fn cover(job: &Job) -> Result<(), Error> {
    let folder = format!("{}/{}/", job.tenant_id, job.ticket_id);
    execute(
        "UPDATE civic.media_jobs
         SET is_sensitive = true, bucket = $3,
             content_type = CASE state WHEN 'done' THEN content_type END,
             file_size = CASE state WHEN 'done' THEN file_size END
         WHERE id = ANY (ARRAY(
             SELECT id FROM civic.media_jobs
             WHERE tenant_id = $1 AND pg_catalog.starts_with(path, $2) AND NOT is_sensitive
               AND state <> 'running'
             FOR UPDATE SKIP LOCKED))",
        &[job.tenant_id.as_str().into(), folder.into(), Bucket::for_media(true).id().into()],
    )
}

/// A job's ticket has become sensitive. The job's file goes to the restricted bucket, and what an earlier
/// attempt may have stored elsewhere is moved there.
pub fn make_sensitive(id: Uuid) -> Result<(), Error> {
    let tickets = rows(
        "UPDATE civic.media_jobs
         SET is_sensitive = true, bucket = $2, content_type = NULL, file_size = NULL
         WHERE id = $1 RETURNING tenant_id, ticket_id",
        &[id.into(), Bucket::for_media(true).id().into()],
        |row| Ok::<(String, String), Error>((column(row, 1)?, column(row, 2)?)),
    )?;
    tickets.iter().try_for_each(|(tenant_id, ticket_id)| restrict(tenant_id, ticket_id, true))
}

/// Sensitive tickets of which files may be in the open.
#[derive(Debug, PartialEq, Eq)]
pub struct Open {
    /// Those of which no look has found that nothing is in the open.
    pub tickets: i64,
    /// Since when, in the server's words.
    pub since: Option<String>,
    /// The most attempts that one of their jobs has had, and why one failed.
    pub attempts: i32,
    pub error: Option<String>,
    /// Whether one of them has been due for a minute.
    pub is_overdue: bool,
    /// Tickets that only wait for their last look.
    pub last_looks: i64,
}

/// `None` where no such job is unfinished.
pub fn open_tickets() -> Result<Option<Open>, Error> {
    let found = rows(
        "SELECT pg_catalog.count(DISTINCT (tenant_id, ticket_id)) FILTER (WHERE NOT last_look),
                (pg_catalog.min(created_at) FILTER (WHERE NOT last_look))::pg_catalog.text,
                COALESCE(pg_catalog.max(attempts) FILTER (WHERE NOT last_look), 0),
                pg_catalog.min(last_error) FILTER (WHERE NOT last_look),
                COALESCE(pg_catalog.bool_or(NOT last_look AND
                    COALESCE(next_attempt_at, started_at)
                        < pg_catalog.clock_timestamp() - pg_catalog.make_interval(mins => 1)), false),
                pg_catalog.count(DISTINCT (tenant_id, ticket_id)) FILTER (WHERE last_look)
         FROM civic.media_jobs WHERE kind = 'restrict' AND state IN ('queued', 'running')",
        &[],
        |row| {
            Ok::<_, Error>(Open {
                tickets: column(row, 1)?,
                since: row.get(2)?,
                attempts: column(row, 3)?,
                error: row.get(4)?,
                is_overdue: column(row, 5)?,
                last_looks: column(row, 6)?,
            })
        },
    )?;
    Ok(found.into_iter().find(|open| open.tickets + open.last_looks > 0))
}

/// Adds the jobs of the tickets that have become sensitive in the transaction, at its end. It never fails
/// the transaction: what cannot be added is a WARNING, and the ticket is written.
pub fn restrict_tickets() {
    let transitions = transitions::take();
    if transitions.is_empty() {
        return;
    }
    // Without the table the extension is gone, with its triggers.
    let Some(owner) = owner() else { return };
    let has_storage = table::find(c"storage", c"objects").is_some();
    // A new ticket seldom has files, and without Storage it has none.
    let tickets = transitions.tickets().into_iter().filter(|it| it.was_open || has_storage);
    let tickets: Vec<&Transition> = tickets.collect();
    let add = |tickets: &[&Transition], may_wait: bool| {
        let each =
            |it: &&Transition| restrict(&it.tenant_id, &it.ticket_id, may_wait && it.was_open);
        attempt(
            || {
                pg::transaction::with_snapshot(|| {
                    as_owner(owner, || tickets.iter().try_for_each(each)).map_err(|it| it.message())
                })
            },
            |_, message| message.to_owned(),
        )
    };
    let mut failures = vec![];
    if add(&tickets, true).is_err() {
        // One that cannot be added must not cost the others theirs. An old snapshot refuses to change a job
        // that waits, and never refuses another one.
        failures = tickets.iter().filter_map(|it| add(&[*it], false).err()).collect();
    }
    if !tickets.is_empty() {
        crate::media::wake_worker_at_commit();
    }
    let lost = failures.len() + transitions.lost();
    if lost > 0 {
        let why = failures.into_iter().next().unwrap_or_else(|| "out of memory".to_owned());
        let message = format!("files of {lost} sensitive tickets are not moved: {why}");
        warn_client(&message, "Look at the table civic.media_jobs, and set is_sensitive again.");
    } else if transitions.was_open() {
        warn_where_nobody_moves();
    }
}

/// The jobs wait for a worker and its settings, and meanwhile files may be in the open.
fn warn_where_nobody_moves() {
    let hint = match shared::shared() {
        None => "Add pg_civic to shared_preload_libraries, restart the server, and set civic.supabase_url and \
                 civic.service_key in its configuration file."
            .to_owned(),
        Some(shared) if shared.media.is_this_database() == Some(false) => {
            "Set civic.database to this database, and restart the server.".to_owned()
        }
        Some(_) => match service::storage_api() {
            Ok(_) => return,
            Err(error) => error.hint().unwrap_or_default(),
        },
    };
    let message = format!(
        "files of a ticket that became sensitive stay where they are until bucket {} can be written",
        Bucket::for_media(true).id()
    );
    warn_client(&message, &hint);
}

fn warn_client(message: &str, hint: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message.to_owned(), "notify_ticket_update")
        .set_hint(hint)
        .report(PgLogLevel::WARNING);
}
