//! What stands between an event and a browser.

use super::super::publication::{self, PUBLICATION};
use super::super::realtime::{self, NO_REALTIME, POLICIES, messages};
use super::super::{catalog, firewall, tickets};
use super::{Finding, bad, default_of, exposure, firewall_functions, good, policies_of};
use crate::error::Error;
use crate::events::realtime::{Probe, explain, probe};
use crate::pg::realtime::{SendError, Sender, sender};
use crate::settings::{self, EventTransport};

pub fn findings() -> Result<Vec<Finding>, Error> {
    let transport = settings::access().event_transport;
    let exists = realtime::exists()?;
    let mut findings = vec![event_transport(transport, exists)?];
    if exists {
        findings.push(row_security()?);
        findings.extend(firewall_functions(&firewall::MESSAGES)?);
        findings.extend(policies_of(&POLICIES)?);
        findings.extend(exposure::uncovered_rights("realtime")?);
        findings.extend(exposure::default_privileges()?);
        if transport.has_realtime() {
            findings.push(send()?);
            findings.push(partitions()?);
            findings.push(wal_level()?);
        }
    } else {
        findings.push(good("realtime", format!("{NO_REALTIME}, so no browser is told")));
    }
    findings.extend(published()?);
    Ok(findings)
}

fn event_transport(transport: EventTransport, exists: bool) -> Result<Finding, Error> {
    let component = "civic.event_transport";
    Ok(match transport {
        EventTransport::Auto if exists => good(component, "auto: notify and realtime"),
        EventTransport::Auto => good(component, "auto: notify"),
        EventTransport::Listed { realtime: true, .. } if !exists => {
            bad(component, format!("realtime, but {NO_REALTIME}"), default_of(component)?)
        }
        EventTransport::Listed { notify: true, realtime: true } => {
            good(component, "notify and realtime")
        }
        EventTransport::Listed { notify: true, realtime: false } => good(component, "notify"),
        EventTransport::Listed { notify: false, realtime: true } => good(component, "realtime"),
        EventTransport::Listed { notify: false, realtime: false } => {
            bad(component, "none: nothing is heard", default_of(component)?)
        }
    })
}

fn row_security() -> Result<Finding, Error> {
    let component = "row security of realtime.messages";
    let fixes = catalog::texts(
        concat!(
            "SELECT f.fix FROM ",
            messages!(),
            " CROSS JOIN LATERAL (
                 SELECT 1, 'ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;'
                 WHERE NOT c.relrowsecurity
                 UNION ALL
                 SELECT 2, 'ALTER TABLE realtime.messages NO FORCE ROW LEVEL SECURITY;'
                 WHERE c.relforcerowsecurity
                 UNION ALL
                 SELECT 3, CASE WHEN r.oid = c.relowner
                                THEN pg_catalog.format('ALTER TABLE realtime.messages OWNER TO %I;',
                                         coalesce((SELECT rolname FROM pg_catalog.pg_roles
                                                   WHERE rolname = 'supabase_realtime_admin'),
                                                  pg_catalog.pg_get_userbyid(n.nspowner)))
                                ELSE pg_catalog.format('REVOKE %I FROM %I;',
                                         pg_catalog.pg_get_userbyid(c.relowner), r.rolname) END
                 FROM pg_catalog.pg_roles r
                 WHERE r.rolname IN ('anon', 'authenticated') AND NOT r.rolsuper
                   AND pg_catalog.pg_has_role(r.oid, c.relowner, 'MEMBER')
             ) f (place, fix)
             ORDER BY f.place"
        ),
        &[],
    )?;
    Ok(if fixes.is_empty() {
        good(component, "enabled")
    } else {
        let detail = "disabled, forced on the owner who sends, or passed by anon or authenticated as the \
                      owner";
        bad(component, detail, fixes.join(" "))
    })
}

/// Tries it: a message is sent, and taken back.
fn send() -> Result<Finding, Error> {
    let component = "realtime.send";
    // A message that is tried would run what others have put on the table with a superuser's rights,
    // and the fix would give their function to a superuser.
    if exposure::owners()?.iter().any(|(owner, ..)| owner.ends_with("realtime.messages")) {
        return Ok(good(component, "not tried: a superuser owns realtime.messages"));
    }
    let guarded = |sender: Sender| {
        if sender.is_guarded() { Ok(sender) } else { Err(SendError::Unguarded) }
    };
    let sender = match sender().and_then(guarded) {
        Ok(sender) => sender,
        Err(error) => {
            let (why, _) = explain(error);
            return Ok(bad(component, why, fix_of(error)?));
        }
    };
    Ok(match probe(&sender) {
        Probe::Stored => good(component, "stores messages"),
        Probe::NotTried(why) => good(component, format!("is there; not tried: {why}")),
        // What mends it depends on what is wrong, of which Realtime's own warning tells.
        Probe::Refused(why) => {
            (component.to_owned(), false, format!("does not store a message: {why}"), None)
        }
    })
}

fn fix_of(error: SendError) -> Result<String, Error> {
    Ok(match error {
        SendError::Unguarded => super::SETUP.to_owned(),
        SendError::ForeignFunction => catalog::texts(
            concat!(
                "SELECT pg_catalog.format('ALTER FUNCTION realtime.send(jsonb, text, text, boolean)
 OWNER TO %I; -- if its source is that of Supabase Realtime', pg_catalog.pg_get_userbyid(c.relowner))
                 FROM ",
                messages!()
            ),
            &[],
        )?
        .concat()
        .replace('\n', ""),
        SendError::NoTable | SendError::NoFunction => {
            "ALTER SYSTEM SET civic.event_transport = 'notify'; SELECT pg_reload_conf(); \
             -- until Supabase Realtime is the one that pg_civic knows"
                .to_owned()
        }
    })
}

/// Today's partition and tomorrow's. Realtime makes them ahead, while somebody is connected to it.
fn partitions() -> Result<Finding, Error> {
    let missing = realtime::missing_partitions()?;
    let detail = match missing.as_slice() {
        [] => return Ok(good(realtime::PARTITIONS, "there are those of today and tomorrow")),
        [1] => "there is none for tomorrow",
        _ => "there is none for today: no message is stored",
    };
    Ok(bad(realtime::PARTITIONS, detail, super::SETUP))
}

fn wal_level() -> Result<Finding, Error> {
    let level = catalog::texts("SELECT pg_catalog.current_setting('wal_level')", &[])?.concat();
    Ok(if level == "logical" {
        good("wal_level", level)
    } else {
        let detail = format!("{level}: Supabase Realtime reads nothing from it");
        bad(
            "wal_level",
            detail,
            "ALTER SYSTEM SET wal_level = 'logical'; -- and restart the server",
        )
    })
}

/// Each table of tickets in the publication.
fn published() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for trigger in tickets::triggers()?.into_iter().filter(|trigger| !trigger.is_inherited) {
        let Some(standing) = publication::standing(trigger.oid)? else { continue };
        let table = trigger.table;
        let component = format!("{table} in publication {PUBLICATION}");
        findings.push(if !standing.is_published {
            let detail = "not published: citizens do not hear of their own tickets";
            let mut fix = publication::publish(&table) + ";";
            if !standing.has_identity {
                fix = format!("ALTER TABLE {table} REPLICA IDENTITY FULL; {fix}");
            }
            bad(component, detail, fix)
        } else if !standing.has_identity {
            let detail = "published without a primary key: PostgreSQL refuses every UPDATE";
            bad(component, detail, format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"))
        } else if !standing.has_row_security {
            let detail = "no row security: every subscriber who may SELECT sees every row";
            let fix = format!(
                "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; -- once its policies stand"
            );
            bad(component, detail, fix)
        } else {
            good(component, "published, under row security")
        });
    }
    Ok(findings)
}
