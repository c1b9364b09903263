//! The transport to browsers: events become private broadcasts of Supabase Realtime.
//!
//! A transaction's events are sent when it commits, all in one subtransaction. If they were sent
//! row by row, each would need its own subtransaction, hold its place in the table of messages for
//! the rest of the transaction, and change the setting `realtime.topic` for the following
//! statements. Events that cannot be sent cost one WARNING, never the ticket.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::buffer::{Buffer, Flags, Record};
use super::pending;
use crate::catalog::{self, Change};
use crate::error::Error;
use crate::pg::lock_budget::LockBudget;
use crate::pg::realtime::{self, SendError, Sender, Warnings};
use crate::pg::shared::counters::{RealtimeLoss, count_at_commit};
use crate::pg::subtransaction::{self, attempt, try_to};
use crate::{pg, settings};

/// After this many refused events in a row the rest is not tried, because it would be refused too.
const REFUSED_IN_A_ROW: usize = 10;
/// The rest is not tried either if no event was stored for this long.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    /// The nesting level at which `realtime.send` runs, and whether a subtransaction directly below
    /// it was rolled back since. Deeper ones belong to other code, which may roll them back on
    /// purpose.
    static SENDING: Cell<(i32, bool)> = const { Cell::new((0, false)) };
}

/// Records that a subtransaction was rolled back.
pub fn subtransaction_aborted(level: i32) {
    let (sending, is_rolled_back) = SENDING.get();
    SENDING.set((sending, is_rolled_back || sending > 0 && level == sending + 1));
}

/// Why events were not stored.
#[derive(Debug)]
enum Failure {
    CannotSend(SendError),
    /// Storing a message would run code of other roles with the rights of a superuser.
    Refused(Error),
    /// An error that `realtime.send` did not catch.
    Raised(String),
    /// Storing a message made a ticket sensitive whose event was sent as an ordinary one.
    Overtaken,
}

impl Failure {
    /// Whether the next event would fail for the same reason.
    fn is_final(&self) -> bool {
        matches!(self, Failure::CannotSend(_) | Failure::Refused(_))
    }
}

/// Counts of the events sent so far.
#[derive(Debug)]
struct Tally {
    sent: usize,
    refused_in_a_row: usize,
    /// When the last event was stored, or sending began.
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

/// Sends one event and returns whether it was stored. `realtime.send` returns normally after a
/// failure too, with a warning. A rollback of its own subtransaction shows that it caught an error.
fn send(sender: &Sender, locks: &LockBudget, event: &Record<'_>) -> bool {
    let Some((topic, payload)) = event.event() else { return false };
    SENDING.set((pg::transaction::level(), false));
    sender.send(locks, topic, payload);
    let (_, is_rolled_back) = SENDING.take();
    !is_rolled_back
}

fn wants(flags: Flags, is_installed: bool) -> bool {
    flags.has(Flags::REALTIME) || is_installed && flags.has(Flags::IF_INSTALLED)
}

/// The transmission of one transaction's events.
pub struct Broadcast {
    locks: LockBudget,
    is_installed: bool,
    tried: usize,
    sent: usize,
    /// The first failure.
    failure: Option<Failure>,
}

impl Broadcast {
    /// `None` if no event is for Realtime.
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

    /// Whether an event with these flags is for Realtime.
    pub fn wants(&self, flags: Flags) -> bool {
        wants(flags, self.is_installed)
    }

    pub fn is_overtaken(&self) -> bool {
        matches!(self.failure, Some(Failure::Overtaken))
    }

    /// The events for Realtime, from a position on.
    fn wanted<'a>(
        &self,
        events: &'a Buffer,
        start: usize,
    ) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let is_installed = self.is_installed;
        events.records_from(start).filter(move |record| wants(record.flags, is_installed))
    }

    /// Sends the events from a position on as far as possible. Code of other roles runs meanwhile.
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

    /// Sends events as the owner of the table, if the table is guarded.
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
                let before = pending::sensitive_versions();
                tally.count(send(&sender, &self.locks, &event));
                if pending::sensitive_versions() != before && pending::is_overtaken(all) {
                    return Err(Failure::Overtaken);
                }
                if tally.is_hopeless(&self.locks) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Sends each event alone, so that one that raises an error does not lose the others.
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

    /// Warns about events that were not stored, and about those from a position on, which were not
    /// tried.
    pub fn finish(self, events: &Buffer, untried: usize) {
        let untried = self.wanted(events, untried).count();
        let lost = self.tried - self.sent + untried;
        count_at_commit(|counters| &counters.realtime_sent, self.sent);
        if lost == 0 {
            return;
        }
        let events = if lost == 1 { "event was" } else { "events were" };
        let (reason, why, hint) = self.explain();
        count_at_commit(|counters| &counters.realtime_lost[reason as usize], lost);
        let message = format!("{lost} {events} not sent to Supabase Realtime: {why}");
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pg_civic")
            .set_hint(hint)
            .report(PgLogLevel::WARNING);
    }

    fn explain(&self) -> (RealtimeLoss, String, &'static str) {
        const CHECK: &str = "See SELECT * FROM civic.check() WHERE NOT ok; and the server's log for Realtime's own warning.";
        const CHANGES: &str =
            "Change the triggers on realtime.messages so that they change no tickets.";
        if self.locks.is_spent() {
            let limit = settings::realtime_lock_timeout().as_millis();
            return (
                RealtimeLoss::LockTimeout,
                format!("a lock was not available within civic.realtime_lock_timeout ({limit} ms)"),
                "Another session holds a lock on realtime.messages, its partition of today, or what a \
                 trigger there needs: see pg_locks and pg_blocking_pids().",
            );
        }
        match &self.failure {
            Some(Failure::CannotSend(error)) => {
                let (why, hint) = explain(*error);
                (reason(*error), why.to_owned(), hint)
            }
            Some(Failure::Refused(error)) => (RealtimeLoss::CodeOfOthers, error.message(), CHECK),
            Some(Failure::Overtaken) => (
                RealtimeLoss::Overtaken,
                "storing a message made a ticket sensitive whose event was sent as an ordinary one"
                    .to_owned(),
                CHANGES,
            ),
            _ if self.tried == self.sent => (
                RealtimeLoss::EndlessChanges,
                "each stored message changes a ticket again".to_owned(),
                CHANGES,
            ),
            // The table's owner also needs a partition; it runs with another search_path than the
            // caller.
            Some(Failure::Raised(_)) | None if !self.has_partition() => (
                RealtimeLoss::NoPartition,
                "realtime.messages has no partition for today".to_owned(),
                "Supabase Realtime makes them while it runs: start it, or see civic.check() for the \
                 statement.",
            ),
            Some(Failure::Raised(error)) => {
                (RealtimeLoss::Raised, format!("realtime.send raised: {error}"), CHECK)
            }
            None => (RealtimeLoss::NotStored, "realtime.send did not store them".to_owned(), CHECK),
        }
    }

    /// True if it cannot be determined.
    fn has_partition(&self) -> bool {
        let find = || {
            let sender = realtime::sender().ok()?;
            Some(
                sender.act(Warnings::Silenced, &self.locks, || self.locks.spend(has_partition_now)),
            )
        };
        try_to(find).ok().flatten().unwrap_or(true)
    }
}

/// The result of a probe.
pub enum Probe {
    Stored,
    Refused(String),
    NotTried(&'static str),
}

/// Sends a message and rolls it back. Whatever prevents messages from being stored prevents this
/// one too, and Realtime's own warning shows the reason.
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
        return Probe::NotTried("there is not enough memory for a message");
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

/// The label of a send error.
fn reason(error: SendError) -> RealtimeLoss {
    match error {
        SendError::NoTable => RealtimeLoss::NoTable,
        SendError::NoFunction => RealtimeLoss::NoFunction,
        SendError::ForeignFunction => RealtimeLoss::ForeignFunction,
        SendError::Unguarded => RealtimeLoss::Unguarded,
    }
}

/// The reason for a send error, and a hint.
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
            "the owner of realtime.send lacks the rights of the owner of realtime.messages",
            "If the function is the one of Supabase Realtime, give it to the table's owner with ALTER \
             FUNCTION … OWNER TO.",
        ),
        SendError::Unguarded => (
            "the channels are not guarded",
            "Run SELECT * FROM civic.setup(); which makes the policies on realtime.messages.",
        ),
    }
}

/// Whether `realtime.messages` has a partition for the current time, `$1` days ahead.
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
