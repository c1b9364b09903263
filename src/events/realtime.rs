//! The transport to browsers: events become private broadcasts of Supabase Realtime.
//!
//! A transaction's events are kept and sent when it commits, all in one subtransaction. Sent row by
//! row each would cost one of its own, hold its place in the table of messages for the rest of the
//! transaction, and change the setting `realtime.topic` under the statements that follow. Kept, they
//! come in the order of the changes, a savepoint that is rolled back takes its own along, and what
//! cannot be sent costs one WARNING and never the ticket.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::realtime::{self as door, Obstacle, Sender, Warnings};
use crate::pg::subtransaction::{self, try_to};
use crate::pg::{self, transaction::Observer};
use crate::relay::pending::Pending;
use crate::settings::EventTransport;

/// After so many events in a row that are refused the rest is not tried: it would be refused too.
const REFUSED_IN_A_ROW: usize = 10;
/// Nor after so long without one that is stored: each may have waited for the same lock.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    /// Whether Realtime is installed, once the transaction has asked.
    is_installed: Option<bool>,
    pending: Pending,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
    /// The level at which `realtime.send` is being called, and whether a subtransaction of its own
    /// was rolled back since. Those within are other code's, and may be as it means them to be.
    static SENDING: Cell<(i32, bool)> = const { Cell::new((0, false)) };
}

/// Keeps an event for the commit, where the transport says so. Neither text holds a NUL, and both
/// keep NOTIFY's limits.
pub fn accept(transport: EventTransport, topic: &CStr, payload: &CStr) {
    let is_wanted = match transport {
        EventTransport::Listed { realtime, .. } => realtime,
        // Nothing is borrowed meanwhile: to ask may be to wait, and there the session may be ended.
        EventTransport::Auto => {
            let known = STATE.with_borrow(|state| state.is_installed);
            let is_installed = known.unwrap_or_else(door::is_installed);
            STATE.with_borrow_mut(|state| state.is_installed = Some(is_installed));
            is_installed
        }
    };
    if is_wanted {
        STATE.with_borrow_mut(|state| state.pending.push(pg::transaction::level(), topic, payload));
    }
}

/// How the sending of some events went.
#[derive(Debug)]
struct Tally {
    sent: usize,
    refused_in_a_row: usize,
    /// When the last event was stored, or the sending began.
    stored: Instant,
    /// What the first error said, where it was not `realtime.send` that caught it.
    error: Option<String>,
}

impl Tally {
    fn begin() -> Tally {
        Tally { sent: 0, refused_in_a_row: 0, stored: Instant::now(), error: None }
    }

    fn count(&mut self, sent: Result<bool, String>) {
        match sent {
            Ok(true) => {
                self.sent += 1;
                self.refused_in_a_row = 0;
                self.stored = Instant::now();
                return;
            }
            Ok(false) => {}
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
        self.refused_in_a_row += 1;
    }

    fn is_hopeless(&self) -> bool {
        self.refused_in_a_row >= REFUSED_IN_A_ROW
            || self.refused_in_a_row > 0 && self.stored.elapsed() >= PATIENCE
    }
}

/// Sends one event, and says whether it was stored. `realtime.send` returns normally then too, with a
/// warning: that its own subtransaction was rolled back tells of the error that it caught.
fn send(sender: &Sender, topic: &CStr, payload: &CStr) -> bool {
    SENDING.set((pg::transaction::level(), false));
    sender.send(topic, payload);
    let (_, is_rolled_back) = SENDING.take();
    !is_rolled_back
}

/// Sends events as the owner of the table, where that is guarded.
fn send_each<'a>(
    events: impl Iterator<Item = (&'a CStr, &'a CStr)>,
    mut count: impl FnMut(bool) -> bool,
) -> Result<(), Obstacle> {
    let sender = door::sender()?;
    sender.act(Warnings::Silenced, || {
        if !sender.is_guarded() {
            return Err(Obstacle::Unguarded);
        }
        for (topic, payload) in events {
            if !count(send(&sender, topic, payload)) {
                break;
            }
        }
        Ok(())
    })
}

/// Sends what it can.
fn send_all(pending: &Pending) -> Result<Tally, Obstacle> {
    let together = try_to(|| {
        let mut tally = Tally::begin();
        send_each(pending.events(), |is_stored| {
            tally.count(Ok(is_stored));
            !tally.is_hopeless()
        })
        .map(|()| tally)
    });
    if let Ok(result) = together {
        return result;
    }
    // An event that raises an error must not cost the others, so now each one alone.
    let mut tally = Tally::begin();
    for event in pending.events() {
        let mut is_stored = false;
        let sent = try_to(|| {
            send_each(std::iter::once(event), |stored| {
                is_stored = stored;
                true
            })
        });
        match sent {
            Ok(Ok(())) => tally.count(Ok(is_stored)),
            Ok(Err(obstacle)) => return Err(obstacle),
            Err(error) => tally.count(Err(error)),
        }
        if tally.is_hopeless() {
            break;
        }
    }
    Ok(tally)
}

/// Sends the transaction's events. Nothing is borrowed meanwhile: it runs other people's code.
fn flush() {
    let State { pending, .. } = STATE.take();
    if pending.is_empty() {
        return;
    }
    let count = pending.events().count();
    let lost = match send_all(&pending) {
        Err(obstacle) => {
            let (why, hint) = explain(obstacle);
            Some((count, why.to_owned(), hint))
        }
        Ok(tally) => {
            let lost = count - tally.sent;
            (lost > 0).then(|| {
                let (why, hint) = explain_refusal(tally.error);
                (lost, why, hint)
            })
        }
    };
    if let Some((lost, why, hint)) = lost {
        let events = if lost == 1 { "event was" } else { "events were" };
        let message = format!("{lost} {events} not sent to Supabase Realtime: {why}");
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pg_civic")
            .set_hint(hint)
            .report(PgLogLevel::WARNING);
    }
}

/// How a message that is sent and taken back has fared.
pub enum Rehearsal {
    Stored,
    Refused(String),
    NotTried(&'static str),
}

/// Sends a message and takes it back: what keeps others from being stored keeps this one, and
/// Realtime's own warning says why.
pub fn rehearse(sender: &Sender) -> Rehearsal {
    if pg::transaction::is_read_only() {
        return Rehearsal::NotTried("the transaction is read only");
    }
    if !sender.is_callers() {
        return Rehearsal::NotTried("this role is not a member of the owner of realtime.messages");
    }
    let payload = c"{\"type\": \"check\"}";
    let stored = subtransaction::rehearse(|| {
        sender.act(Warnings::Told, || send(sender, c"ticket_updates:", payload))
    });
    match stored {
        Ok(true) => Rehearsal::Stored,
        Ok(false) => Rehearsal::Refused("Realtime's own warning says why".to_owned()),
        Err(error) => Rehearsal::Refused(error),
    }
}

/// What stands in the way, and what to do.
pub fn explain(obstacle: Obstacle) -> (&'static str, &'static str) {
    match obstacle {
        Obstacle::NoTable => (
            "there is no table realtime.messages",
            "Start Supabase Realtime on this database, or take realtime out of civic.event_transport.",
        ),
        Obstacle::NoFunction => (
            "there is no function realtime.send(jsonb, text, text, boolean)",
            "Upgrade Supabase Realtime or pg_civic, whichever is older; until then set \
             civic.event_transport = notify.",
        ),
        Obstacle::ForeignFunction => (
            "the owner of realtime.send has not the rights of the owner of realtime.messages",
            "Give the function to the table's owner with ALTER FUNCTION … OWNER TO, if it is the one \
             of Supabase Realtime.",
        ),
        Obstacle::Unguarded => (
            "the channels are not guarded",
            "Run SELECT * FROM civic.setup(); which makes the policies on realtime.messages.",
        ),
    }
}

/// The same, where the function was called and did not store the message.
fn explain_refusal(error: Option<String>) -> (String, &'static str) {
    const CHECK: &str = "See SELECT * FROM civic.check() WHERE NOT ok; and the server's log for Realtime's own warning.";
    // As the table's owner too: under a search_path that is not the caller's.
    let has_partition =
        try_to(|| door::sender().map(|sender| sender.act(Warnings::Silenced, has_partition_now)));
    let has_partition = has_partition.ok().and_then(Result::ok).unwrap_or(true);
    match error {
        Some(error) => (format!("realtime.send raised: {error}"), CHECK),
        None if !has_partition => (
            "realtime.messages has no partition for today".to_owned(),
            "Supabase Realtime makes them while it runs: start it, or see civic.check() for the \
             statement.",
        ),
        None => ("realtime.send did not store them".to_owned(), CHECK),
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

pub struct Broadcast;

impl Observer for Broadcast {
    fn before_commit() {
        flush();
    }

    fn before_prepare() {
        flush();
    }

    fn committed() {
        STATE.take();
    }

    fn aborted() {
        STATE.take();
    }

    fn subtransaction_committed(level: i32) {
        STATE.with_borrow_mut(|state| state.pending.release(level));
    }

    fn subtransaction_aborted(level: i32) {
        let (sending, is_rolled_back) = SENDING.get();
        SENDING.set((sending, is_rolled_back || sending > 0 && level == sending + 1));
        STATE.with_borrow_mut(|state| state.pending.roll_back(level));
    }
}
