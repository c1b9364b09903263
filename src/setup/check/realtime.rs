//! What an event needs to reach a browser.

use super::super::plan::{self, Finding, SETUP, bad, good, readable, unrepaired, walk};
use super::super::publication::Operations;
use super::super::realtime;
use super::super::relation::Relation;
use super::server::default_of;
use super::{exposure, realtime_tenant};
use crate::catalog;
use crate::error::Error;
use crate::events::realtime::{Probe, explain, probe};
use crate::pg::realtime::{SendError, sender};
use crate::pg::role;
use crate::settings::{self, EventTransport};

pub fn findings() -> Result<Vec<Finding>, Error> {
    let transport = settings::access().event_transport;
    let messages = realtime::messages()?;
    let mut findings = vec![event_transport(transport, messages.is_some())?];
    findings.extend(walk(realtime::components(transport.has_realtime())?, plan::check)?);
    let Some(messages) = messages else { return Ok(findings) };
    if messages.forces_row_security {
        let fix = "ALTER TABLE realtime.messages NO FORCE ROW LEVEL SECURITY;";
        let detail = "forced on the owner of the table, who sends the messages";
        findings.push(bad("row security of realtime.messages", detail, fix));
    }
    findings.extend(readable("rights in schema realtime", exposure::memberships("realtime"))?);
    findings.extend(readable("default privileges", exposure::part("default privileges"))?);
    if transport.has_realtime() {
        findings.push(send(&messages));
        findings.push(wal_level()?);
        findings.extend(output_plugins()?);
        findings.extend(readable("tenant of Realtime", realtime_tenant::findings())?);
    }
    Ok(findings)
}

fn event_transport(transport: EventTransport, exists: bool) -> Result<Finding, Error> {
    let component = "civic.event_transport";
    Ok(match transport {
        EventTransport::Auto if exists => good(component, "auto: notify and realtime"),
        EventTransport::Auto => good(component, "auto: notify"),
        EventTransport::Listed { realtime: true, .. } if !exists => bad(
            component,
            "realtime, but there is no table realtime.messages",
            default_of(component)?,
        ),
        EventTransport::Listed { notify: true, realtime: true } => {
            good(component, "notify and realtime")
        }
        EventTransport::Listed { notify: true, realtime: false } => good(component, "notify"),
        EventTransport::Listed { notify: false, realtime: true } => good(component, "realtime"),
        EventTransport::Listed { notify: false, realtime: false } => {
            bad(component, "none: no event is sent", default_of(component)?)
        }
    })
}

/// Sends a message, and rolls it back.
fn send(messages: &Relation) -> Finding {
    let component = "realtime.send";
    // A trial message would run what others have put on the table with a superuser's rights, and the fix
    // would give their function to a superuser.
    if role::is_superuser(messages.owner) {
        return good(component, "not tried: a superuser owns realtime.messages");
    }
    let sender = match sender() {
        Ok(sender) if sender.is_guarded() => sender,
        Ok(_) => return send_error(messages, SendError::Unguarded),
        Err(error) => return send_error(messages, error),
    };
    match probe(&sender) {
        Probe::Stored => good(component, "stores messages"),
        Probe::NotTried(why) => good(component, format!("exists; not tried: {why}")),
        // The repair depends on the fault, which Realtime's own warning names.
        Probe::Refused(why) => unrepaired(component, format!("does not store a message: {why}")),
    }
}

fn send_error(messages: &Relation, error: SendError) -> Finding {
    let (why, _) = explain(error);
    let fix = match error {
        SendError::Unguarded => SETUP.to_owned(),
        SendError::ForeignFunction => format!(
            "ALTER FUNCTION realtime.send(jsonb, text, text, boolean) OWNER TO {}; \
             -- if its source is that of Supabase Realtime",
            pgrx::spi::quote_identifier(&messages.owner_name)
        ),
        SendError::NoTable | SendError::NoFunction => {
            "ALTER SYSTEM SET civic.event_transport = 'notify'; SELECT pg_reload_conf(); \
             -- until Supabase Realtime is of a version that pg_civic supports"
                .to_owned()
        }
    };
    bad("realtime.send", why, fix)
}

fn wal_level() -> Result<Finding, Error> {
    let level = catalog::texts("SELECT pg_catalog.current_setting('wal_level')", &[])?.concat();
    Ok(if level == "logical" {
        good("wal_level", level)
    } else {
        let detail = format!("{level}: Supabase Realtime cannot read the log");
        bad(
            "wal_level",
            detail,
            "ALTER SYSTEM SET wal_level = 'logical'; -- and restart the server",
        )
    })
}

/// Servers that have the setting refuse the output plugin of `postgres_changes`, and Realtime tells the page
/// that it has subscribed. It matters where a table of tickets is published.
fn output_plugins() -> Result<Option<Finding>, Error> {
    const NAME: &str = "output_plugin_libraries";
    const PLUGIN: &str = "wal2json";
    let setting = "SELECT setting FROM pg_catalog.pg_settings WHERE name = $1";
    let Some(setting) = catalog::texts(setting, &[NAME.into()])?.into_iter().next() else {
        return Ok(None);
    };
    if !Operations::publishes_tickets()? {
        return Ok(None);
    }
    let names = listed(&setting);
    if names.iter().any(|name| name.trim_matches('"') == PLUGIN) {
        return Ok(Some(good(NAME, setting)));
    }
    let detail = format!(
        "{setting}: without {PLUGIN} no page receives postgres_changes, although Realtime says that it has \
         subscribed"
    );
    let all = [&names[..], &[PLUGIN]].concat().join(", ");
    // Not in quotes: the whole list would be one name.
    let fix = format!("ALTER SYSTEM SET {NAME} = {all}; SELECT pg_reload_conf();");
    Ok(Some(bad(NAME, detail, fix)))
}

/// The names of a list, each as it is written: in double quotes it may contain commas.
fn listed(setting: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let names = setting.split(|character| {
        is_quoted ^= character == '"';
        character == ',' && !is_quoted
    });
    names.map(str::trim).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn a_quoted_list_is_one_name() {
        assert_eq!(
            listed("pgoutput, test_decoding,wal2json"),
            ["pgoutput", "test_decoding", "wal2json"]
        );
        assert_eq!(listed("\"pgoutput, wal2json\", a"), ["\"pgoutput, wal2json\"", "a"]);
        assert_eq!(listed(" , "), [""; 0]);
    }
}
