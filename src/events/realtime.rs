//! The transport to browsers: events become private broadcasts of Supabase Realtime.
//!
//! A transaction's events are sent when it commits, all in one subtransaction. Sent row by row each would
//! cost one of its own, hold its place in the table of messages for the rest of the transaction, and
//! change the setting `realtime.topic` under the statements that follow. What cannot be sent costs one
//! WARNING and never the ticket.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::buffer::{Buffer, Flags, Record};
use super::transaction;
use crate::catalog::{self, Change};
use crate::error::Error;
use crate::pg::lock_budget::LockBudget;
use crate::pg::realtime::{self, SendError, Sender, Warnings};
use crate::pg::subtransaction::{self, attempt, try_to};
use crate::{pg, settings};

/// After so many events in a row that are refused the rest is not tried: it would be refused too.
const REFUSED_IN_A_ROW: usize = 10;
/// Nor after so long without one that is stored.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    /// The level at which `realtime.send` is being called, and whether a subtransaction of its own
    /// was rolled back since. Those within are other code's, and may be as it means them to be.
    static SENDING: Cell<(i32, bool)> = const { Cell::new((0, false)) };
}

/// Notes that a subtransaction was rolled back.
pub fn subtransaction_aborted(level: i32) {
    let (sending, is_rolled_back) = SENDING.get();
    SENDING.set((sending, is_rolled_back || sending > 0 && level == sending + 1));
}

/// Why events were not stored.
#[derive(Debug)]
enum Failure {
    CannotSend(SendError),
    /// Storing a message would run code of others with the rights of a superuser.
    Refused(Error),
    /// An error that `realtime.send` did not catch.
    Raised(String),
    /// Storing a message has made a ticket sensitive of which an ordinary event is sent.
    Overtaken,
}

impl Failure {
    /// Whether the next event would fail for the same reason.
    fn is_final(&self) -> bool {
        matches!(self, Failure::CannotSend(_) | Failure::Refused(_))
    }
}

/// How the sending of some events went.
#[derive(Debug)]
struct Tally {
    sent: usize,
    refused_in_a_row: usize,
    /// When the last event was stored, or the sending began.
    stored: Instant,
}

impl Tally {
    fn begin() -> Tally {
        Tally { sent: 0, refused_in_a_row: 0, stored: Instant::now() }
    }

    fn count(&mut self, is_stored: bool) {
        if is_stored {
            self.sent += 1;
            self.refused_in_a_row = 0;
            self.stored = Instant::now();
        } else {
            self.refused_in_a_row += 1;
        }
    }

    fn is_hopeless(&self, locks: &LockBudget) -> bool {
        locks.is_spent()
            || self.refused_in_a_row >= REFUSED_IN_A_ROW
            || self.refused_in_a_row > 0 && self.stored.elapsed() >= STORE_TIMEOUT
    }
}

/// Sends one event, and says whether it was stored. `realtime.send` returns normally then too, with a
/// warning: that its own subtransaction was rolled back tells of the error that it caught.
fn send(sender: &Sender, locks: &LockBudget, event: &Record<'_>) -> bool {
    let Some((topic, payload)) = event.event() else { return false };
    SENDING.set((pg::transaction::level(), false));
    sender.send(locks, topic, payload);
    let (_, is_rolled_back) = SENDING.take();
    !is_rolled_back
}

/// The sending of one transaction's events.
pub struct Broadcast {
    locks: LockBudget,
    is_installed: bool,
    tried: usize,
    sent: usize,
    /// What the first failure was.
    failure: Option<Failure>,
}

impl Broadcast {
    /// `None` where nothing is for Realtime.
    pub fn begin(events: &Buffer) -> Option<Broadcast> {
        if !events.may_have(Flags::REALTIME.with(Flags::IF_INSTALLED)) {
            return None;
        }
        let is_installed = realtime::is_installed();
        (is_installed || events.may_have(Flags::REALTIME)).then(|| Broadcast {
            locks: LockBudget::new(settings::realtime_lock_timeout()),
            is_installed,
            tried: 0,
            sent: 0,
            failure: None,
        })
    }

    /// The events for Realtime, from a place on.
    fn wanted<'a>(
        &self,
        events: &'a Buffer,
        start: usize,
    ) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let is_installed = self.is_installed;
        let is_wanted = move |flags: Flags| {
            flags.has(Flags::REALTIME) || is_installed && flags.has(Flags::IF_INSTALLED)
        };
        events.records_from(start).filter(move |record| is_wanted(record.flags))
    }

    /// Sends what it can of the events from a place on. Other people's code runs meanwhile.
    pub fn send(&mut self, events: &Buffer, start: usize) {
        let count = self.wanted(events, start).count();
        self.tried += count;
        let is_final = self.failure.as_ref().is_some_and(Failure::is_final);
        if count == 0 || self.locks.is_spent() || is_final {
            return;
        }
        let together = attempt(
            || {
                let mut tally = Tally::begin();
                self.send_each(events, self.wanted(events, start), &mut tally)?;
                Ok(tally)
            },
            |_, message| Failure::Raised(message.to_owned()),
        );
        match together {
            Ok(tally) => self.sent += tally.sent,
            Err(failure) if failure.is_final() => self.failure = Some(failure),
            Err(_) => self.send_alone(events, start),
        }
    }

    /// Sends events as the owner of the table, where that is guarded.
    fn send_each<'a>(
        &self,
        all: &Buffer,
        events: impl Iterator<Item = Record<'a>>,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let sender = realtime::sender().map_err(Failure::CannotSend)?;
        sender.act(Warnings::Silenced, &self.locks, || {
            sender.lock(&self.locks);
            if !self.locks.spend(|| sender.is_guarded()) {
                return Err(Failure::CannotSend(SendError::Unguarded));
            }
            self.locks
                .spend(|| {
                    let (table, owner) = (sender.table(), sender.owner());
                    catalog::refuse_code_of_others(
                        table,
                        owner,
                        "realtime.messages",
                        Change::Insert,
                    )
                })
                .map_err(Failure::Refused)?;
            for event in events {
                let before = transaction::sensitive_versions();
                tally.count(send(&sender, &self.locks, &event));
                if transaction::sensitive_versions() != before && transaction::is_overtaken(all) {
                    return Err(Failure::Overtaken);
                }
                if tally.is_hopeless(&self.locks) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// An event that raises an error must not cost the others, so each one alone.
    fn send_alone(&mut self, events: &Buffer, start: usize) {
        let mut tally = Tally::begin();
        for event in self.wanted(events, start) {
            if tally.is_hopeless(&self.locks) {
                break;
            }
            let sent = attempt(
                || {
                    let mut own = Tally::begin();
                    self.send_each(events, std::iter::once(event), &mut own)?;
                    Ok(own.sent > 0)
                },
                |_, message| Failure::Raised(message.to_owned()),
            );
            match sent {
                Ok(is_stored) => tally.count(is_stored),
                Err(failure) => {
                    tally.count(false);
                    let is_final = failure.is_final();
                    self.failure.get_or_insert(failure);
                    if is_final {
                        break;
                    }
                }
            }
        }
        self.sent += tally.sent;
    }

    /// Warns of what was not stored, and of the events from a place on, which were not tried.
    pub fn finish(self, events: &Buffer, untried: usize) {
        let untried = self.wanted(events, untried).count();
        let lost = self.tried - self.sent + untried;
        if lost == 0 {
            return;
        }
        let events = if lost == 1 { "event was" } else { "events were" };
        let (why, hint) = self.explain();
        let message = format!("{lost} {events} not sent to Supabase Realtime: {why}");
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pg_civic")
            .set_hint(hint)
            .report(PgLogLevel::WARNING);
    }

    fn explain(&self) -> (String, &'static str) {
        const CHECK: &str = "See SELECT * FROM civic.check() WHERE NOT ok; and the server's log for Realtime's own warning.";
        const CHANGES: &str =
            "Look for a trigger on realtime.messages, and let it change no tickets.";
        if self.locks.is_spent() {
            let limit = settings::realtime_lock_timeout().as_millis();
            return (
                format!("a lock was not available within civic.realtime_lock_timeout ({limit} ms)"),
                "Another session holds a lock on realtime.messages, its partition of today, or what a \
                 trigger there needs: see pg_locks and pg_blocking_pids().",
            );
        }
        match &self.failure {
            Some(Failure::CannotSend(error)) => {
                let (why, hint) = explain(*error);
                (why.to_owned(), hint)
            }
            Some(Failure::Refused(error)) => (error.message(), CHECK),
            Some(Failure::Overtaken) => (
                "storing it has made a ticket sensitive that was being sent as an ordinary one"
                    .to_owned(),
                CHANGES,
            ),
            _ if self.tried == self.sent => {
                ("each message that is stored changes a ticket again".to_owned(), CHANGES)
            }
            // As the table's owner too: under a search_path that is not the caller's.
            Some(Failure::Raised(_)) | None if !self.has_partition() => (
                "realtime.messages has no partition for today".to_owned(),
                "Supabase Realtime makes them while it runs: start it, or see civic.check() for the \
                 statement.",
            ),
            Some(Failure::Raised(error)) => (format!("realtime.send raised: {error}"), CHECK),
            None => ("realtime.send did not store them".to_owned(), CHECK),
        }
    }

    /// True where it cannot be found out.
    fn has_partition(&self) -> bool {
        let look = || {
            let sender = realtime::sender().ok()?;
            Some(
                sender.act(Warnings::Silenced, &self.locks, || self.locks.spend(has_partition_now)),
            )
        };
        try_to(look).ok().flatten().unwrap_or(true)
    }
}

/// How a message that is sent and taken back has fared.
pub enum Probe {
    Stored,
    Refused(String),
    NotTried(&'static str),
}

/// Sends a message and takes it back: what keeps others from being stored keeps this one, and
/// Realtime's own warning says why.
pub fn probe(sender: &Sender) -> Probe {
    if pg::transaction::is_read_only() {
        return Probe::NotTried("the transaction is read only");
    }
    if !sender.is_callers() {
        return Probe::NotTried("this role is not a member of the owner of realtime.messages");
    }
    let mut check = Buffer::default();
    let payload = b"{\"type\": \"check\"}";
    if check.push(1, Flags::REALTIME, 0, b"ticket_updates:", payload).is_err() {
        return Probe::NotTried("there is no memory for a message");
    }
    let locks = LockBudget::new(settings::realtime_lock_timeout());
    let stored = subtransaction::probe(|| {
        let send = |event: Record<'_>| send(sender, &locks, &event);
        sender.act(Warnings::Shown, &locks, || check.records().all(send))
    });
    match stored {
        Ok(true) => Probe::Stored,
        Ok(false) => Probe::Refused("Realtime's own warning says why".to_owned()),
        Err(error) => Probe::Refused(error),
    }
}

/// What stands in the way, and what to do.
pub fn explain(error: SendError) -> (&'static str, &'static str) {
    match error {
        SendError::NoTable => (
            "there is no table realtime.messages",
            "Start Supabase Realtime on this database, or take realtime out of civic.event_transport.",
        ),
        SendError::NoFunction => (
            "there is no function realtime.send(jsonb, text, text, boolean)",
            "Upgrade Supabase Realtime or pg_civic, whichever is older; until then set \
             civic.event_transport = notify.",
        ),
        SendError::ForeignFunction => (
            "the owner of realtime.send has not the rights of the owner of realtime.messages",
            "Give the function to the table's owner with ALTER FUNCTION … OWNER TO, if it is the one \
             of Supabase Realtime.",
        ),
        SendError::Unguarded => (
            "the channels are not guarded",
            "Run SELECT * FROM civic.setup(); which makes the policies on realtime.messages.",
        ),
    }
}

/// Whether a message of this moment finds a partition of `realtime.messages`, `$1` days ahead.
pub const HAS_PARTITION: &str = "
    SELECT c.relkind <> 'p' OR EXISTS (
        SELECT
        FROM pg_catalog.pg_inherits i
        JOIN pg_catalog.pg_class p ON p.oid = i.inhrelid
        CROSS JOIN LATERAL pg_catalog.pg_get_expr(p.relpartbound, p.oid) AS bound
        LEFT JOIN LATERAL pg_catalog.regexp_match(
            bound, 'FROM \\((?:''([^'']*)''|MINVALUE)\\) TO \\((?:''([^'']*)''|MAXVALUE)\\)') AS ends ON true
        CROSS JOIN LATERAL (SELECT (pg_catalog.now() AT TIME ZONE 'UTC')
                                   + pg_catalog.make_interval(days => $1)) AS at (moment)
        WHERE i.inhparent = c.oid
          AND (bound = 'DEFAULT'
               OR ends IS NOT NULL
                  AND (ends[1] IS NULL OR at.moment >= ends[1]::pg_catalog.timestamp)
                  AND (ends[2] IS NULL OR at.moment < ends[2]::pg_catalog.timestamp)))
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'realtime' AND c.relname = 'messages'";

fn has_partition_now() -> bool {
    Spi::get_one_with_args::<bool>(HAS_PARTITION, &[0.into()]).ok().flatten().unwrap_or(false)
}
