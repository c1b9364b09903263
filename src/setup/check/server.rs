//! Version, relay, settings and grants.

use super::super::plan::{Component, Finding, State, bad, good};
use super::super::policy::{AUTHENTICATED, OF_MEDIA_JOBS, has_role};
use super::super::privileges::{Grantee, MEDIA_JOBS, functions_of};
use crate::error::Error;
use crate::pg::shared;
use crate::pg::worker_slot::WorkerSlot;
use crate::settings::{self, SensitiveEvents};
use crate::{catalog, pg};

pub fn version() -> Result<Vec<Finding>, Error> {
    let library = env!("CARGO_PKG_VERSION");
    let installed = catalog::texts(
        "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pg_civic'",
        &[],
    )?
    .concat();
    Ok(vec![if installed == library {
        good("version", installed)
    } else {
        let detail = format!("the library is {library}, the SQL objects are {installed}");
        bad("version", detail, "ALTER EXTENSION pg_civic UPDATE;")
    }])
}

/// The statement that preloads the library. Hidden from a role that could not add a library either.
pub fn preload_statement() -> Result<Option<String>, Error> {
    let statement = catalog::texts(
        "SELECT pg_catalog.format(
             'ALTER SYSTEM SET shared_preload_libraries = %s; ALTER SYSTEM SET civic.database = %L;'
             ' -- and restart the server',
             (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(library), ', ')
              FROM pg_catalog.unnest(pg_catalog.array_append(
                       pg_catalog.regexp_split_to_array(NULLIF(setting, ''), '\\s*,\\s*'),
                       'pg_civic'))
                   AS library),
             pg_catalog.current_database())
         FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries'",
        &[],
    )?;
    Ok(statement.into_iter().next())
}

/// What check() says of a worker on a standby.
pub const STANDBY: &str = "this server is a standby: it starts when the server is promoted";

/// Without the relay everything is right but slow, so that is reported and is no fault.
pub fn relay() -> Result<Vec<Finding>, Error> {
    let component = "relay";
    let Some(shared) = shared::shared() else {
        let detail = "the library is not preloaded: the commit of each change of a ticket waits for the \
                      cluster's one lock of NOTIFY, and wakes every listener";
        return Ok(vec![(component.to_owned(), true, detail.to_owned(), preload_statement()?)]);
    };
    if pg::is_standby() {
        return Ok(vec![good(component, STANDBY)]);
    }
    Ok(vec![match shared.relay.is_this_database() {
        Some(false) => {
            let detail = format!(
                "serves database {}: events of this one are sent by ordinary NOTIFY",
                settings::database()
            );
            good(component, detail)
        }
        _ if !settings::relay() => {
            bad(component, "off", "ALTER SYSTEM SET civic.relay = on; SELECT pg_reload_conf();")
        }
        Some(true) if shared.relay.pid().is_some() => good(component, "running"),
        _ => {
            let (why, fix) = why_not_running(&shared.relay)?;
            let detail = format!("{why}; events are sent by ordinary NOTIFY meanwhile");
            (component.to_owned(), false, detail, fix)
        }
    }])
}

/// Why a worker of this server does not run, and the statement that helps.
pub fn why_not_running(slot: &WorkerSlot) -> Result<(String, Option<String>), Error> {
    if slot.is_this_database().is_none() && slot.failed_starts() == 0 {
        let processes =
            catalog::texts("SELECT pg_catalog.current_setting('max_worker_processes')", &[])?
                .concat();
        let needed = processes.parse::<u32>().map_or(processes.clone(), |it| (it + 3).to_string());
        return Ok((
            format!("not started: no slot was left for it, max_worker_processes is {processes}"),
            Some(format!(
                "ALTER SYSTEM SET max_worker_processes = {needed}; -- and restart the server"
            )),
        ));
    }
    let database = settings::database();
    let is_there = catalog::holds(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1 AND datallowconn)",
        &[database.as_str().into()],
    )?;
    if !is_there {
        let fix = catalog::texts(
            "SELECT pg_catalog.format(
                 'ALTER SYSTEM SET civic.database = %L; -- and restart the server',
                 pg_catalog.current_database())",
            &[],
        )?;
        let detail = format!(
            "not running: database \"{database}\", which civic.database names, does not exist or accepts no \
             connections"
        );
        return Ok((detail, Some(fix.concat())));
    }
    let detail = match slot.failed_starts() {
        0 | 1 => "not running: the server starts it again within a second".to_owned(),
        starts => format!("not running, after {starts} starts in vain: the server's log says why"),
    };
    Ok((detail, Some("SELECT pg_reload_conf(); -- it starts again at once".to_owned())))
}

pub fn settings() -> Result<Vec<Finding>, Error> {
    let component = "civic.sensitive_events";
    let mut findings = vec![match settings::sensitive_events() {
        SensitiveEvents::Redacted => good(component, "redacted"),
        SensitiveEvents::Restricted => good(component, "restricted"),
        SensitiveEvents::Full => {
            let detail =
                "full: every listener of the municipality receives events of sensitive tickets";
            bad(component, detail, default_of(component)?)
        }
    }];
    let access = settings::access();
    for (setting, roles, consequence) in [
        ("civic.sensitive_readers", &access.sensitive_readers, "no role reads GBV evidence"),
        (
            "civic.event_listeners",
            &access.event_listeners,
            "no role joins the channel of the municipality",
        ),
    ] {
        findings.push(if roles.is_empty() {
            bad(setting, format!("empty: {consequence}"), default_of(setting)?)
        } else {
            good(setting, roles.join(", "))
        });
    }
    Ok(findings)
}

/// The statement that resets a setting where it was set.
pub fn default_of(setting: &str) -> Result<String, Error> {
    let statement = catalog::texts(
        "SELECT CASE source
                WHEN 'session' THEN pg_catalog.format('RESET %s;', name)
                WHEN 'global' THEN pg_catalog.format('ALTER ROLE ALL RESET %s;', name)
                WHEN 'database' THEN pg_catalog.format('ALTER DATABASE %I RESET %s;',
                    pg_catalog.current_database(), name)
                WHEN 'user' THEN pg_catalog.format('ALTER ROLE %I RESET %s;', session_user, name)
                WHEN 'database user' THEN pg_catalog.format('ALTER ROLE %I IN DATABASE %I RESET %s;',
                    session_user, pg_catalog.current_database(), name)
                ELSE pg_catalog.format('ALTER SYSTEM SET %s = %L; SELECT pg_reload_conf();',
                    name, boot_val)
                END
         FROM pg_catalog.pg_settings WHERE name = $1",
        &[setting.into()],
    )?;
    Ok(statement.concat())
}

/// What the roles of Supabase need. They may have been created after the extension, which then granted
/// them nothing.
pub fn privileges() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for grantee in Grantee::ROLES {
        let role = grantee.role();
        if !has_role(role)? {
            continue;
        }
        let component = format!("privileges of {role}");
        let mut missing = catalog::texts(
            "SELECT function FROM pg_catalog.unnest($2) AS function
             WHERE NOT pg_catalog.has_function_privilege($1, function, 'EXECUTE')",
            &[role.into(), functions_of(grantee).into()],
        )?;
        let mut fixes = vec![];
        if !missing.is_empty() {
            let functions = missing.join(", ");
            fixes.push(format!("GRANT EXECUTE ON FUNCTION {functions} TO {role};"));
        }
        for (lacks, fix) in media_jobs(grantee)? {
            missing.push(lacks);
            fixes.push(fix);
        }
        findings.push(if missing.is_empty() {
            good(component, "granted")
        } else {
            bad(component, format!("not granted: {}", missing.join(", ")), fixes.join(" "))
        });
    }
    Ok(findings)
}

/// What a role lacks to read the jobs that it may read, each with the statement that repairs it.
fn media_jobs(grantee: Grantee) -> Result<Vec<(String, String)>, Error> {
    let role = grantee.role();
    let reader = MEDIA_JOBS.into_iter().find(|(reader, _)| *reader == grantee);
    let Some((_, hidden)) = reader else { return Ok(vec![]) };
    let names: Vec<_> = hidden.iter().map(|column| column.to_string()).collect();
    let columns = catalog::texts(
        "SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relname = 'media_jobs'
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'civic'
         WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL ($2)
           AND NOT pg_catalog.has_column_privilege($1, c.oid, a.attnum, 'SELECT')
         ORDER BY a.attnum",
        &[role.into(), names.into()],
    )?;
    let mut missing = vec![];
    if !columns.is_empty() {
        let columns =
            if hidden.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
        let fix = format!("GRANT SELECT{columns} ON civic.media_jobs TO {role};");
        missing.push(("SELECT on civic.media_jobs".to_owned(), fix));
    }
    if role == AUTHENTICATED {
        let create = OF_MEDIA_JOBS.create_statement();
        let drop = OF_MEDIA_JOBS.drop_statement();
        match OF_MEDIA_JOBS.state()? {
            State::Missing(_) => missing.push((OF_MEDIA_JOBS.name(), format!("{create};"))),
            State::Different(_) => {
                missing.push((OF_MEDIA_JOBS.name(), format!("{drop}; {create};")));
            }
            _ => {}
        }
    }
    Ok(missing)
}
