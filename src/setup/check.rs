//! What is right and what is not, each with the statement that mends it.

use super::policy::{self, POLICIES, State};
use super::{catalog, files, tickets};
use crate::error::Error;
use crate::pg::shared;
use crate::settings::{self, SensitiveEvents};
use crate::storage::bucket::ALL;

/// What was looked at, whether it is right, what was seen, and the statement that mends it.
type Finding = (String, bool, String, Option<String>);

const SETUP: &str = "SELECT * FROM civic.setup();";

fn good(component: impl Into<String>, detail: impl Into<String>) -> Finding {
    (component.into(), true, detail.into(), None)
}

fn bad(component: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Finding {
    (component.into(), false, detail.into(), Some(fix.into()))
}

pub fn check() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![version()?];
    if files::has_storage()? {
        findings.extend(buckets()?);
        findings.extend(row_security()?);
        findings.extend(policies()?);
        findings.push(index()?);
    } else {
        findings
            .push(good("storage", "there is no schema storage, so there are no files to guard"));
    }
    findings.extend(triggers()?);
    findings.push(relay()?);
    findings.push(sensitive_events());
    findings.push(sensitive_readers());
    Ok(findings)
}

fn version() -> Result<Finding, Error> {
    let library = env!("CARGO_PKG_VERSION");
    let installed = catalog::texts(
        "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pg_civic'",
        &[],
    )?
    .concat();
    Ok(if installed == library {
        good("version", installed)
    } else {
        let detail = format!("the library is {library}, the SQL objects are {installed}");
        bad("version", detail, "ALTER EXTENSION pg_civic UPDATE;")
    })
}

fn buckets() -> Result<Vec<Finding>, Error> {
    let finding = |id: &str| {
        let component = format!("bucket {id}");
        let seen = catalog::texts(
            "SELECT coalesce(public, false) FROM storage.buckets WHERE id = $1",
            &[id.into()],
        )?;
        Ok(match seen.first().map(String::as_str) {
            Some("false") => good(component, "private"),
            Some(_) => {
                let fix = format!("UPDATE storage.buckets SET public = false WHERE id = '{id}';");
                bad(component, "public: whoever knows a file's address reads it", fix)
            }
            None => bad(component, "absent, or hidden from this role by row security", SETUP),
        })
    };
    ALL.iter().map(|bucket| finding(bucket.id())).collect()
}

fn row_security() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for table in ["buckets", "objects"] {
        let component = format!("row security of storage.{table}");
        findings.push(if files::has_row_security(table)? {
            good(component, "enabled")
        } else {
            let fix = format!("ALTER TABLE storage.{table} ENABLE ROW LEVEL SECURITY;");
            bad(component, "disabled: no policy is asked", fix)
        });
    }
    for role in ["anon", policy::AUTHENTICATED] {
        if !files::has_role(role)? {
            continue;
        }
        let passes = catalog::holds(
            "SELECT r.rolsuper OR r.rolbypassrls OR pg_catalog.pg_has_role(r.oid, c.relowner, 'USAGE')
             FROM pg_catalog.pg_roles r, pg_catalog.pg_class c
             WHERE r.rolname = $1 AND c.oid = pg_catalog.to_regclass('storage.objects')",
            &[role.into()],
        )?;
        let component = format!("role {role}");
        findings.push(if passes {
            let fix = format!("ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS;");
            bad(component, "passes row security, or owns storage.objects", fix)
        } else {
            good(component, "is held by row security")
        });
    }
    Ok(findings)
}

fn policies() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for policy in &POLICIES {
        findings.push(match policy.state()? {
            State::Installed => good(policy.component(), "as pg_civic makes it"),
            State::Missing => bad(policy.component(), "missing", SETUP),
            State::Different => bad(policy.component(), "not as pg_civic makes it", SETUP),
        });
    }
    for name in policy::left_by_migrations()? {
        let component = format!("policy \"{name}\" on storage.objects");
        findings.push(bad(component, "of the application's migrations: slow, and replaced", SETUP));
    }
    Ok(findings)
}

fn index() -> Result<Finding, Error> {
    let component = "index on (bucket_id, name COLLATE \"C\")";
    Ok(match files::range_index()? {
        Some(index) => good(component, index),
        None => {
            let fix = format!(
                "CREATE INDEX CONCURRENTLY {} ON storage.objects (bucket_id, name COLLATE \"C\");",
                files::INDEX
            );
            bad(component, "missing: every read scans every tenant's objects", fix)
        }
    })
}

fn triggers() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for trigger in tickets::triggers()? {
        let component = format!("trigger {} on {}", trigger.name, trigger.table);
        findings.push(if trigger.is_enabled {
            good(component, "enabled")
        } else {
            let name = pgrx::spi::quote_identifier(&trigger.name);
            let fix = format!("ALTER TABLE {} ENABLE TRIGGER {name};", trigger.table);
            bad(component, "disabled: changes are not heard", fix)
        });
    }
    if findings.is_empty() {
        let fix = "SELECT * FROM civic.setup('public.tickets');";
        findings.push(bad("trigger", "no table's changes are heard", fix));
    }
    let left = catalog::texts(
        "SELECT pg_catalog.format('DROP TRIGGER %I ON %s;', t.tgname, t.tgrelid::pg_catalog.regclass)
         FROM pg_catalog.pg_trigger t
         WHERE t.tgfoid = pg_catalog.to_regprocedure('public.notify_ticket_update()')
           AND NOT t.tgisinternal AND t.tgparentid = 0",
        &[],
    )?;
    for fix in left {
        let detail =
            "of the application's migrations: tells of sensitive tickets, and can fail a write";
        findings.push(bad("trigger of public.notify_ticket_update()", detail, fix));
    }
    Ok(findings)
}

/// Without the relay all is right but slow, so it is told and not held against anybody.
fn relay() -> Result<Finding, Error> {
    let component = "relay";
    let Some(shared) = shared::shared() else {
        let detail = "the library is not preloaded: at its commit each change of a ticket waits for \
                      the cluster's one lock of NOTIFY, and wakes every listener";
        let others = catalog::texts(
            "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries'",
            &[],
        )?;
        let libraries: Vec<_> =
            others.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let libraries = [libraries, vec!["pg_civic"]].concat().join(", ");
        let fix = format!(
            "ALTER SYSTEM SET shared_preload_libraries = {libraries}; \
             ALTER SYSTEM SET civic.database = {}; -- and restart the server",
            catalog::texts("SELECT pg_catalog.quote_ident(current_database())", &[])?.concat()
        );
        return Ok((component.to_owned(), true, detail.to_owned(), Some(fix)));
    };
    Ok(match shared.is_this_database() {
        Some(false) => {
            let detail = format!(
                "serves database {}: here events go out by ordinary NOTIFY",
                settings::database()
            );
            good(component, detail)
        }
        _ if !settings::relay() => {
            bad(component, "off", "ALTER SYSTEM SET civic.relay = on; SELECT pg_reload_conf();")
        }
        Some(true) if shared.pid().is_some() => good(component, "running"),
        _ => {
            let detail = "not running: the server's log says why; events go out by ordinary NOTIFY";
            bad(component, detail, "SELECT pg_reload_conf(); -- and wait a second")
        }
    })
}

fn sensitive_events() -> Finding {
    let component = "civic.sensitive_events";
    match settings::sensitive_events() {
        SensitiveEvents::Redacted => good(component, "redacted"),
        SensitiveEvents::Restricted => good(component, "restricted"),
        SensitiveEvents::Full => {
            let detail = "full: every listener of the municipality hears of each sensitive ticket";
            bad(component, detail, "ALTER SYSTEM SET civic.sensitive_events = 'redacted';")
        }
    }
}

fn sensitive_readers() -> Finding {
    let component = "civic.sensitive_readers";
    let readers = settings::access().sensitive_readers.join(", ");
    if readers.is_empty() {
        let fix = "ALTER SYSTEM RESET civic.sensitive_readers;";
        return bad(component, "empty: nobody reads GBV evidence", fix);
    }
    good(component, readers)
}
