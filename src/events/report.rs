//! Reports what `civic.realtime_rate` has held back, in a background process.

use std::time::Duration;

use pgrx::PgLogLevel;
use pgrx::prelude::*;

use super::buffer::Flags;
use super::limit::{self, SECOND};
use super::{rate, transaction};
use crate::pg;
use crate::pg::shared::rates;

/// Reports what has waited for this second. Gives how long to wait for the next one; `None` if nothing waits.
pub fn report() -> Option<Duration> {
    if !rates::are_shared() || !rates::with(|rates| rates.has_waiting()) {
        return None;
    }
    let now = pg::transaction::now();
    let second = now / SECOND;
    let due = rates::with(|rates| rates.due(second));
    if !due.is_empty() {
        let send = || {
            for waiting in &due {
                let reports =
                    rate::reports(&waiting.municipality, &waiting.changes, pg::transaction_start());
                for (channel, event) in reports {
                    let flags = Flags::REALTIME.with(Flags::BULK);
                    transaction::keep(flags, 0, &channel, &event)
                        .unwrap_or_else(|error| error.raise());
                }
            }
        };
        let sent = limit::unlimited(|| pg::worker::transaction(send));
        match sent {
            // A process that ends before reports again: a page then reads its list twice.
            Ok(()) => rates::with(|rates| rates.settle(&due, second)),
            Err((_, message)) => ereport!(
                PgLogLevel::LOG,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("changes beyond civic.realtime_rate are reported later: {message}")
            ),
        }
    }
    let rest = u64::try_from(SECOND - now.rem_euclid(SECOND)).unwrap_or_default();
    Some(Duration::from_micros(rest + 1000))
}
