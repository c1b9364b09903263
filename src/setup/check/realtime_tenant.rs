//! What Realtime's own record of this project says: its rate limit, and whether public channels are open.
//!
//! Realtime keeps it in `_realtime.tenants`, in this database or in another one. It is another role's table,
//! and any role may have made one of the name. So it is read only with the rights of its owner, for a caller
//! who has them.

use super::super::plan::{Finding, good, is_refused, unrepaired};
use super::super::relation::Relation;
use crate::catalog::{self, CatalogError, Change};
use crate::error::Error;
use crate::pg::role;
use crate::pg::shared::counters;
use crate::settings;

const TABLE: &str = "_realtime.tenants";
const RATE_LIMIT: &str = "rate limit of Realtime";
const PUBLIC_CHANNELS: &str = "public channels of Realtime";

/// A limit that is not reported: 10,000 tickets in one transaction before five dashboards, or 47 a second
/// before twenty.
const ENOUGH: i64 = 1000;
/// The dashboards of the example in the report.
const DASHBOARDS: i64 = 20;

pub fn findings() -> Result<Vec<Finding>, Error> {
    let record = match read() {
        Ok(record) => record,
        Err(error) if is_refused(&error) => Err(error.message()),
        Err(error) => match error.downcast_ref() {
            Some(CatalogError::WouldRunAsSuperuser { .. }) => Err(error.message()),
            _ => return Err(error),
        },
    };
    Ok(match record {
        Ok(record) => {
            let busiest = counters::busiest_realtime_minute();
            let rate = {
                let bounds =
                    Bounds { bulk_after: settings::bulk_after(), rate: settings::realtime_rate() };
                rate_limit(record.limit, busiest, bounds)
            };
            vec![rate, public_channels(record.open)]
        }
        Err(why) => {
            let detail = |default: &str| format!("not known, {why}; {default}");
            vec![
                good(RATE_LIMIT, detail("Realtime's default is 100 events a second for all")),
                good(PUBLIC_CHANNELS, detail("Realtime's default is that they are open")),
            ]
        }
    })
}

struct Record {
    /// The lowest limit, in events a second.
    limit: Option<i64>,
    /// Whether a client may join a channel that is not private.
    open: Option<bool>,
}

/// `Err(why)` if it cannot be read.
fn read() -> Result<Result<Record, String>, Error> {
    let why = |why: &str| Ok(Err(why.to_owned()));
    let Some(table) = Relation::named("_realtime", "tenants")?.filter(|table| table.kind == "r")
    else {
        return why("as there is no table _realtime.tenants in this database");
    };
    if !role::has_rights_of(table.owner) {
        return why("as _realtime.tenants belongs to another role");
    }
    // Only columns of the server's own types: others would run code of their owners.
    let columns = catalog::texts(
        "SELECT attname FROM pg_catalog.pg_attribute
         WHERE attrelid = $1 AND NOT attisdropped
           AND (attname = 'max_events_per_second'
                AND atttypid IN ('pg_catalog.int4'::pg_catalog.regtype,
                                 'pg_catalog.int8'::pg_catalog.regtype)
                OR attname = 'private_only' AND atttypid = 'pg_catalog.bool'::pg_catalog.regtype)",
        &[table.oid.into()],
    )?;
    let owner = table.owner()?;
    owner.refuse_code_of_others(table.oid, TABLE, Change::Insert)?;
    let value = |column: &str, sql: &str| {
        if !columns.iter().any(|found| found == column) {
            return Ok(None);
        }
        Ok::<_, Error>(owner.texts(TABLE, sql, &[])?.into_iter().next())
    };
    let limit = value(
        "max_events_per_second",
        "SELECT pg_catalog.min(max_events_per_second) FROM ONLY _realtime.tenants",
    )?;
    let open = value(
        "private_only",
        "SELECT pg_catalog.bool_or(private_only IS NOT TRUE) FROM ONLY _realtime.tenants",
    )?;
    Ok(Ok(Record {
        limit: limit.and_then(|limit| limit.parse().ok()),
        open: open.map(|open| open == "true"),
    }))
}

/// The settings that bound what is sent.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    bulk_after: usize,
    rate: Option<u32>,
}

/// `busiest` is how many messages were sent in the busiest minute of the last hour.
fn rate_limit(limit: Option<i64>, busiest: Option<u32>, bounds: Bounds) -> Finding {
    let Bounds { bulk_after, rate } = bounds;
    let Some(limit) = limit else {
        return good(RATE_LIMIT, "not known, as _realtime.tenants does not name it");
    };
    let mut detail = format!(
        "{limit} a second for the whole project, the mean of a minute. Each message counts, and each delivery: \
         {} tickets a second before {DASHBOARDS} dashboards",
        tickets_per_second(limit, DASHBOARDS)
    );
    let busiest = i64::from(busiest.unwrap_or(0));
    let is_passed = busiest > 0 && !is_carried(limit, busiest, 1);
    if busiest > 0 {
        detail +=
            &format!(". In the busiest minute of the last hour {busiest} messages were sent: ");
        let reached = limit.saturating_mul(60).saturating_add(busiest - 1) / busiest - 1;
        detail += &if is_passed {
            "over the limit before a single dashboard".to_owned()
        } else {
            format!("the limit is reached before {reached} dashboards")
        };
    }
    if limit >= ENOUGH && !is_passed {
        return good(RATE_LIMIT, detail);
    }
    let mut remedy = "Above it Realtime drops every broadcast, and no page notices. Set \
                      TENANT_MAX_EVENTS_PER_SECOND for Realtime (20000, for example), and restart it so that \
                      it seeds the tenant; changing the row alone has no effect"
        .to_owned();
    // Half of what the limit carries, for each.
    let advised = (limit / 2 / (1 + DASHBOARDS)).max(1);
    if rate.is_none_or(|rate| i64::from(rate) > advised) {
        let shown = rate.map_or("no limit".to_owned(), |rate| rate.to_string());
        remedy += &format!(
            ". A municipality is sent as many messages a second as civic.realtime_rate says ({shown}): set \
             it to {advised} or less"
        );
    }
    let advised = limit.saturating_mul(30) / (1 + DASHBOARDS);
    if bulk_after == 0 || i64::try_from(bulk_after).unwrap_or(i64::MAX) > advised {
        let shown = if bulk_after == 0 { "no limit".to_owned() } else { bulk_after.to_string() };
        let advised = advised.max(1);
        remedy += &format!(
            ". One transaction may send as many messages to a municipality as civic.bulk_after says \
             ({shown}): set it to {advised} or less"
        );
    }
    unrepaired(RATE_LIMIT, format!("{detail}. {remedy}"))
}

/// Whether Realtime delivers so many messages of a minute to as many dashboards.
fn is_carried(limit: i64, messages: i64, dashboards: i64) -> bool {
    messages.saturating_mul(1 + dashboards) < limit.saturating_mul(60)
}

/// How many ordinary tickets a second a limit carries, with one decimal. A ticket is a message to the channel
/// of its municipality and its deliveries there; its owner's is one more for each.
fn tickets_per_second(limit: i64, dashboards: i64) -> String {
    let tenths = limit.saturating_mul(10) / (1 + dashboards);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn public_channels(open: Option<bool>) -> Finding {
    match open {
        None => good(PUBLIC_CHANNELS, "not known, as _realtime.tenants does not name private_only"),
        Some(false) => good(PUBLIC_CHANNELS, "closed"),
        Some(true) => unrepaired(
            PUBLIC_CHANNELS,
            "open: a page that joins ticket_updates:… without private: true receives what any client with \
             the publishable key sends there, and takes it for events. Set private_only for the tenant in \
             Realtime (\"Allow public access\" off in the dashboard of Supabase); every channel then needs \
             private: true and a policy on realtime.messages",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limit_carries_four_tickets_a_second_before_twenty_dashboards() {
        for (limit, dashboards, expected) in [
            (100, 20, "4.7"),
            (100, 0, "100.0"),
            (1000, 20, "47.6"),
            (20_000, 5, "3333.3"),
            (0, 5, "0.0"),
        ] {
            assert_eq!(tickets_per_second(limit, dashboards), expected);
        }
    }

    #[test]
    fn a_busy_minute_is_reported_and_one_over_the_limit_is_a_warning() {
        let report = |limit, busiest, bulk_after| {
            let bounds = Bounds { bulk_after, rate: Some(2) };
            let finding = rate_limit(Some(limit), busiest, bounds);
            (finding.1, finding.2)
        };
        for busiest in [10_000, 11_000] {
            let (ok, detail) = report(1000, Some(busiest), 1000);
            let expected =
                format!("{busiest} messages were sent: the limit is reached before 5 dashboards");
            assert!(ok && detail.ends_with(&expected), "{detail}");
        }
        let (ok, detail) = report(1000, Some(30_000), 1000);
        assert!(
            !ok && detail
                .contains("30000 messages were sent: over the limit before a single dashboard")
        );
        for busiest in [None, Some(0)] {
            let (ok, detail) = report(1000, busiest, 0);
            assert!(ok && !detail.contains("busiest"), "{detail}");
        }
        for (bulk_after, advice) in
            [(1000, "(1000): set it to 142 or less"), (0, "(no limit): set it to 142 or less")]
        {
            let (ok, detail) = report(100, None, bulk_after);
            assert!(!ok && detail.ends_with(advice), "{detail}");
        }
        assert!(!report(100, None, 142).1.contains("bulk_after"));
    }

    #[test]
    fn a_rate_that_exceeds_half_of_the_limit_is_advised_against() {
        let detail = |limit, rate| rate_limit(Some(limit), None, Bounds { bulk_after: 1, rate }).2;
        assert!(
            detail(100, None).ends_with("civic.realtime_rate says (no limit): set it to 2 or less")
        );
        assert!(detail(100, Some(3)).ends_with("(3): set it to 2 or less"));
        assert!(!detail(100, Some(2)).contains("realtime_rate"));
        assert!(detail(10, None).ends_with("set it to 1 or less"));
        assert!(!detail(20_000, None).contains("realtime_rate"));
    }

    /// What is reported as carried is carried, and one ticket more a second is not.
    #[test]
    fn the_report_is_what_the_limit_of_realtime_carries() {
        for (limit, dashboards) in [(100, 5), (100, 20), (1000, 20), (20_000, 100)] {
            let carried: u64 =
                tickets_per_second(limit, dashboards).split('.').next().unwrap().parse().unwrap();
            let lost = |per_second: u64| {
                let mut rate = civic_fake_services::RateLimit::new(limit.unsigned_abs());
                (0..300).any(|second| {
                    let at = std::time::Duration::from_secs(second);
                    let mut send = || rate.broadcast(at, dashboards.unsigned_abs());
                    (0..per_second).map(|_| send()).sum::<u64>() == 0
                })
            };
            assert!(!lost(carried) && lost(carried + 1), "{limit} {dashboards}");
        }
    }
}
