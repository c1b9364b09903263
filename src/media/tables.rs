//! The process that works on other people's tables for the media worker: it looks up whether a ticket is
//! sensitive, and writes attachments. It also sends what `civic.realtime_rate` has held back.
//!
//! What those tables execute can take as long as it likes. It is given up with this process, which the
//! server starts again; the media worker, with its transfers, is another one and goes on.

pub mod request;

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, Uuid};

use self::request::{Files, Request, Step};
use super::MediaError;
use super::job::{Attempt, Kind, Moved, Outcome};
use super::process;
use super::store::{self, Hold, Job, as_owner, warn};
use crate::catalog;
use crate::error::{Error, Report};
use crate::events::report;
use crate::pg::mailbox::{Answer, REQUEST_LIMIT};
use crate::pg::shared::counters::ErrorClass;
use crate::pg::subtransaction::attempt;
use crate::pg::{self, foreign, shared};
use crate::settings;
use crate::settings::media::media_attempts;
use crate::settings::service::media_table;
use crate::storage::StorageError;
use crate::storage::attachment::{Attachment, Attachments};
use crate::storage::path;
use crate::tickets::TicketError;
use crate::tickets::sensitivity::is_sensitive;
use crate::tickets::ticket::TicketId;

/// The name of the process.
pub const NAME: &str = "pg_civic media tables";

/// The ticket is not sensitive, or the files of a sensitive one are in the reply: the transfer can begin.
pub const READY: Answer = Answer(Answer::CUSTOM);
/// The ticket is sensitive, and so is the job now: the transfer can begin.
pub const SENSITIVE: Answer = Answer(Answer::CUSTOM + 1);
/// The job is recorded, or is not this attempt's any more.
pub const SETTLED: Answer = Answer(Answer::CUSTOM + 2);
/// A session has locked the job's row, or recording failed: ask again later.
pub const LATER: Answer = Answer(Answer::CUSTOM + 3);

/// The worker wakes this process. It looks by itself only in case that is lost.
const IDLE: Duration = Duration::from_secs(60);
/// How often the same failure is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Files of a ticket that one look takes from the table of attachments.
const FILES: i64 = 256;

pub fn register() {
    pg::worker::register(NAME, "civic_media_tables_main");
}

/// The process's main function. The server starts it again a second after it ends.
#[allow(unsafe_code)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn civic_media_tables_main(_argument: pg_sys::Datum) {
    let Some(shared) = shared::shared() else { return };
    process::begin(&shared.media_tables, || settings::realtime_rate().is_some());
    shared.take_over_media_tables();
    pg::foreign::observe(|table| {
        if let Some(shared) = shared::shared() {
            shared.mailbox.note_table(table);
        }
    });
    pg::worker::run(&shared.media_tables, None, |_| match shared.mailbox.take() {
        Some(request) => {
            let (answer, text) = serve(&request);
            shared.mailbox.reply(answer, text.as_bytes());
            shared.media.wake();
            Duration::ZERO
        }
        None => report::report().unwrap_or(IDLE),
    });
    pg::end_process_to_be_restarted();
}

fn serve(request: &[u8]) -> (Answer, String) {
    match Request::from_json(request) {
        Some(Request { id, attempts, step: Step::Prepare }) => prepare(id, attempts),
        Some(Request { id, attempts, step: Step::Record(attempt) }) => {
            (record(id, attempts, &attempt), String::new())
        }
        None => {
            warn("the media worker has sent a request that cannot be read");
            (Answer::LOST, String::new())
        }
    }
}

/// Does something in a transaction of its own, given the queue's owner. `None` where there is no queue.
/// An error is logged: the job stays as it is, and others go on.
pub fn in_transaction<R>(
    body: impl FnOnce(pg_sys::Oid) -> Result<R, Error>,
) -> Result<Option<R>, ()> {
    let lock = || {
        store::lock();
        true
    };
    locked_transaction(lock, body)
}

/// The same at a shutdown, where nothing waits: `None` also where somebody has locked the whole queue.
pub fn in_transaction_if_free<R>(
    body: impl FnOnce(pg_sys::Oid) -> Result<R, Error>,
) -> Result<Option<R>, ()> {
    locked_transaction(store::lock_if_free, body)
}

fn locked_transaction<R>(
    lock: impl FnOnce() -> bool,
    body: impl FnOnce(pg_sys::Oid) -> Result<R, Error>,
) -> Result<Option<R>, ()> {
    let body = || {
        let owner = store::owner().filter(|_| lock());
        owner.map(body).transpose().unwrap_or_else(|error| error.raise())
    };
    pg::worker::transaction(body).map_err(|(sqlstate, message)| {
        let sqlstate = pg::sqlstate_text(sqlstate);
        warn_again(format!("media jobs are recorded later: {message} (SQLSTATE {sqlstate})"));
    })
}

/// A warning about something that is tried again and again: the same one is logged once a minute.
fn warn_again(message: String) {
    thread_local! {
        static LOGGED: RefCell<HashMap<String, Instant>> = RefCell::default();
    }
    let now = Instant::now();
    let is_new = LOGGED.with_borrow_mut(|logged| {
        logged.retain(|_, since| now.duration_since(*since) < LOG_INTERVAL);
        let is_new = !logged.contains_key(&message);
        logged.entry(message.clone()).or_insert(now);
        is_new
    });
    if is_new {
        warn(&message);
    }
}

/// The attempt where it is unknown whether a ticket is sensitive.
fn of_ticket(error: &Error) -> Attempt {
    let is_transient = !matches!(error.downcast_ref(), Some(TicketError::OfAnother { .. }));
    let class = ErrorClass::Ticket;
    let outcome = Outcome::Refused { is_transient, retry_after: None, class };
    Attempt { error: Some(error.message()), ..Attempt::new(outcome) }
}

/// Looks up what the transfer of a claimed job needs. The ticket of an ordinary job may have become
/// sensitive since it was added.
fn prepare(id: Uuid, attempts: i32) -> (Answer, String) {
    let prepare = |owner| {
        let job = as_owner(owner, || store::claimed(id, attempts))?;
        let Some(job) = job else { return Ok((SETTLED, String::new())) };
        if job.kind == Kind::Restrict {
            let files = as_owner(owner, || Ok(files_of(&job)))?;
            return Ok((READY, files.to_json(REQUEST_LIMIT)));
        }
        if job.is_sensitive {
            return Ok((SENSITIVE, String::new()));
        }
        // As a rule nothing is written.
        let refused = match as_owner(owner, || is_now_sensitive(&job)) {
            Ok(false) => return Ok((READY, String::new())),
            Ok(true) => None,
            Err(error) => Some(of_ticket(&error)),
        };
        let answer = as_owner(owner, || {
            let is_cancelled = match store::hold(id, attempts)? {
                Hold::Ours { is_cancelled } => is_cancelled,
                Hold::Locked => return Ok(LATER),
                Hold::NotOurs => return Ok(SETTLED),
            };
            match refused {
                None => store::make_sensitive(id).map(|()| SENSITIVE),
                Some(attempt) => {
                    store::settle(id, is_cancelled, &attempt, media_attempts()).map(|()| SETTLED)
                }
            }
        })?;
        Ok((answer, String::new()))
    };
    match in_transaction(prepare) {
        Ok(prepared) => prepared.unwrap_or((SETTLED, String::new())),
        Err(()) => (LATER, String::new()),
    }
}

/// Records how an attempt ended, in a transaction of its own: what others' tables do with one job neither
/// delays nor undoes what is recorded of another.
fn record(id: Uuid, attempts: i32, attempt: &Attempt) -> Answer {
    let mut refused = None;
    if !attempt.moved.is_empty() {
        match in_transaction(|owner| follow(owner, id, attempts, attempt)) {
            Ok(followed) => refused = followed.flatten(),
            Err(()) => return LATER,
        }
    }
    let attempt = refused.as_ref().unwrap_or(attempt);
    match in_transaction(|owner| record_one(owner, id, attempts, attempt)) {
        Ok(Some(Hold::Locked)) | Err(()) => LATER,
        Ok(_) => SETTLED,
    }
}

/// Records how an attempt ended. A file that is stored gets its row in the table of attachments, with the
/// rights of that table's owner; where this fails the job is tried again, and only this of it. One
/// whose ticket has become sensitive meanwhile goes to the restricted bucket at the next attempt.
fn record_one(
    owner: pg_sys::Oid,
    id: Uuid,
    attempts: i32,
    attempt: &Attempt,
) -> Result<Hold, Error> {
    let hold = as_owner(owner, || store::hold(id, attempts))?;
    let Hold::Ours { is_cancelled } = hold else { return Ok(hold) };
    let Some(job) = as_owner(owner, || store::claimed(id, attempts))? else {
        return Ok(Hold::NotOurs);
    };
    // Also where the attempt has failed: an earlier one may have left the file in the open.
    let is_sensitive = as_owner(owner, || {
        let is_sensitive = is_now_sensitive(&job)?;
        if is_sensitive {
            store::make_sensitive(id)?;
        }
        Ok(is_sensitive)
    });
    let refused = match (&attempt.stored, is_sensitive) {
        (None, _) => None,
        (Some(_), Err(error)) => Some(of_ticket(&error)),
        (Some(_), Ok(true)) => {
            Some(Attempt::failed(ErrorClass::Ticket, MediaError::NowSensitive.message()))
        }
        (Some((content_type, size)), Ok(false)) => {
            let attached = as_owner(owner, || attach(&job, content_type, *size));
            attached.err().map(|error| Attempt {
                stored: attempt.stored.clone(),
                ..Attempt::failed(ErrorClass::Attachments, error.message())
            })
        }
    };
    let attempt = refused.as_ref().unwrap_or(attempt);
    as_owner(owner, || store::settle(id, is_cancelled, attempt, media_attempts()))?;
    Ok(hold)
}

/// Whether the ticket of an ordinary job has become sensitive since.
///
/// Errors: as [`is_sensitive`].
fn is_now_sensitive(job: &Job) -> Result<bool, Error> {
    if job.is_sensitive {
        return Ok(false);
    }
    briefly(
        || is_sensitive(&job.tenant_id, &job.ticket_id, false),
        |sqlstate| TicketError::Unreadable { sqlstate },
    )
}

/// Does something with tables of others, in a subtransaction: where that fails, or takes too long, the
/// job waits and not the process. Nor does the process wait for a lock that somebody has forgotten.
fn briefly<R, E: Report>(
    body: impl FnOnce() -> Result<R, Error>,
    raised: impl Fn(String) -> E + UnwindSafe + RefUnwindSafe,
) -> Result<R, Error> {
    let lock_timeout = |time: &str| catalog::set(&format!("SET LOCAL lock_timeout = '{time}'"));
    attempt(
        || {
            lock_timeout("1s")?;
            let result = body()?;
            lock_timeout("0")?;
            Ok(result)
        },
        |sqlstate, _| match foreign::take_overrun() {
            Some(error) if sqlstate == PgSqlErrorCode::ERRCODE_QUERY_CANCELED => error.into(),
            _ => raised(pg::sqlstate_text(sqlstate)).into(),
        },
    )
}

/// Does something with the table of attachments; `None` where there is none. The caller is in a restricted
/// operation, so that nothing of the table's owner waits for the transaction's end, where it would run with
/// this process's own rights.
fn with_attachments<R>(
    body: impl FnOnce(Attachments) -> Result<R, Error>,
) -> Result<Option<R>, Error> {
    let table = media_table();
    if table.is_empty() {
        return Ok(None);
    }
    briefly(
        || match catalog::set("SET CONSTRAINTS ALL IMMEDIATE")
            .and_then(|()| Attachments::find(&table))
        {
            Err(error)
                if matches!(error.downcast_ref(), Some(StorageError::NoMediaTable { .. })) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(attachments) => body(attachments).map(Some),
        },
        |sqlstate| MediaError::AttachmentRefused { sqlstate },
    )
}

/// Records a stored file in the table of attachments, as the application itself would write it.
///
/// Errors: the table refuses the row; the ticket has become sensitive meanwhile. Then nothing is recorded.
fn attach(job: &Job, content_type: &str, size: u64) -> Result<(), Error> {
    let Some(file_id) = job.file_id.map(|id| id.to_string()) else { return Ok(()) };
    let attachment = Attachment {
        tenant_id: &job.tenant_id,
        ticket_id: Some(&job.ticket_id),
        file_id: &file_id,
        bucket: &job.bucket,
        path: &job.path,
        content_type: Some(content_type),
        size: size as i64,
        // A bucket's name is the purpose that it serves.
        purpose: &job.bucket,
        source: "whatsapp",
        created_by: None,
    };
    let attached = with_attachments(|attachments| {
        if attachments.find_recorded(&attachment)?.is_none() {
            attachments.record(&attachment)?;
        }
        // What the owner has put on the table takes its time, and the ticket may have changed.
        if !job.is_sensitive && is_sensitive(&job.tenant_id, &job.ticket_id, false)? {
            return Err(MediaError::NowSensitive.into());
        }
        Ok(())
    });
    attached.map(|_| ())
}

/// The files that are recorded with the ticket of a job that restricts them. A municipality whose id cannot
/// be one segment of a path has none: its folder would be within another's.
fn files_of(job: &Job) -> Files {
    if path::segment("tenant", &job.tenant_id).is_err() {
        return Files::default();
    }
    let ticket = TicketId::new(&job.ticket_id);
    match with_attachments(|table| table.of_ticket(&job.tenant_id, &ticket, FILES)) {
        Ok(recorded) => Files { recorded: recorded.unwrap_or_default(), error: None },
        // What is found without the table is moved all the same.
        Err(error) => Files { recorded: vec![], error: Some(error.message()) },
    }
}

/// Has attachments name where files have been moved. The job's row is not locked meanwhile, so that a
/// ticket can become sensitive. Gives what to record of the attempt, where this fails.
fn follow(
    owner: pg_sys::Oid,
    id: Uuid,
    attempts: i32,
    attempt: &Attempt,
) -> Result<Option<Attempt>, Error> {
    if as_owner(owner, || store::claimed(id, attempts))?.is_none() {
        return Ok(None);
    }
    let place = |it: &Moved| (it.bucket.clone(), it.path.clone(), it.target.clone());
    let moved: Vec<_> = attempt.moved.iter().map(place).collect();
    let followed = as_owner(owner, || {
        with_attachments(|attachments| {
            let moved: Vec<_> =
                moved.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
            attachments.follow(&moved)
        })
    });
    Ok(followed.err().map(|error| Attempt::failed(ErrorClass::Attachments, error.message())))
}
