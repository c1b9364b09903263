//! What is right and what is not, each with the statement that mends it.

mod exposure;
mod media;
mod realtime;
mod service;

use super::policy::{self, POLICIES, Policy, State};
use super::{buckets, catalog, files, firewall, tickets};
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

/// The findings of one part. A name in the catalog that is no text, or
/// is too long, must not hide the other parts.
fn readable(
    component: &str,
    found: Result<impl IntoIterator<Item = Finding>, Error>,
) -> Result<Vec<Finding>, Error> {
    match found {
        Ok(findings) => Ok(findings.into_iter().collect()),
        Err(Error::InvalidText(why)) => {
            let detail = format!("not checked: a name in the catalog is no text: {why}");
            Ok(vec![(component.to_owned(), false, detail, None)])
        }
        Err(error @ Error::ValueTooLong { .. }) => {
            let detail = format!("not checked: in the catalog is a {}", error.message());
            Ok(vec![(component.to_owned(), false, detail, None)])
        }
        Err(error) => Err(error),
    }
}

pub fn check() -> Result<Vec<Finding>, Error> {
    let one = |finding: Result<Finding, Error>| finding.map(|finding| [finding]);
    let mut findings = readable("event triggers", exposure::event_triggers())?;
    findings.extend(readable("version", one(version()))?);
    if files::has_storage()? {
        findings.extend(readable("buckets", bucket_findings())?);
        findings.extend(readable("row security", row_security())?);
        findings.extend(readable("policies", policies())?);
        findings.extend(readable("index", one(index()))?);
        findings
            .extend(readable("rights in schema storage", exposure::uncovered_rights("storage"))?);
    } else {
        let detail = format!("{}, so there are no files to guard", files::NO_STORAGE);
        findings.push(good("storage", detail));
    }
    findings.extend(readable("owners", exposure::owners())?);
    findings.extend(readable("triggers of others", exposure::triggers_of_others())?);
    findings.extend(readable("views", exposure::views())?);
    findings.extend(readable("functions", exposure::functions())?);
    findings.extend(readable("trigger", triggers())?);
    findings.extend(readable("realtime", realtime::findings())?);
    findings.extend(readable("relay", one(relay()))?);
    findings.extend(readable("media worker", one(media::worker()))?);
    findings.extend(readable("files of sensitive tickets", media::restricted())?);
    findings.extend(readable("service_role", service_role())?);
    findings.extend(readable("storage service", service::findings())?);
    findings.extend(readable("civic.sensitive_events", one(sensitive_events()))?);
    for (setting, consequence) in [
        ("civic.sensitive_readers", "nobody reads GBV evidence"),
        ("civic.event_listeners", "nobody joins the municipality's channel"),
    ] {
        findings.extend(readable(setting, one(readers(setting, consequence)))?);
    }
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

fn bucket_findings() -> Result<Vec<Finding>, Error> {
    let foreign = files::foreign_columns()?;
    if !foreign.is_empty() {
        let detail = format!(
            "{}: not as Storage makes them, so the buckets are not read",
            foreign.join(", ")
        );
        return Ok(vec![("columns of Storage's tables".to_owned(), false, detail, None)]);
    }
    let reader = buckets::Reader::find()?;
    let finding = |id: &str| {
        let component = format!("bucket {id}");
        if matches!(reader, buckets::Reader::Nobody) {
            let detail = "hidden from this role: ask as the owner of storage.buckets";
            return Ok((component, false, detail.to_owned(), None));
        }
        Ok(match reader.is_public(id) {
            Err(error @ Error::Refused { .. }) => (component, false, error.message(), None),
            Err(error) => return Err(error),
            Ok(None) => bad(component, "absent", SETUP),
            Ok(Some(is_public)) if is_public == "false" => good(component, "private"),
            Ok(Some(_)) => {
                bad(component, "public: anyone who knows a file's address reads it", SETUP)
            }
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
            bad(component, "disabled: no policy is asked", SETUP)
        });
    }
    for role in ["anon", policy::AUTHENTICATED] {
        if !policy::has_role(role)? {
            continue;
        }
        // Membership counts whether inherited or not: SET ROLE is one statement away.
        let fixes = catalog::texts(
            "SELECT pg_catalog.format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS;', rolname)
             FROM pg_catalog.pg_roles WHERE rolname = $1 AND (rolsuper OR rolbypassrls)
             UNION ALL
             -- Never to a superuser: what is on the table would run with its rights.
             SELECT CASE WHEN r.oid = c.relowner
                         THEN pg_catalog.format('ALTER TABLE storage.%I OWNER TO %I;', c.relname,
                                    coalesce((SELECT rolname FROM pg_catalog.pg_roles
                                              WHERE rolname = 'supabase_storage_admin'),
                                             pg_catalog.pg_get_userbyid(n.nspowner)))
                         ELSE pg_catalog.format('REVOKE %I FROM %I;', o.rolname, r.rolname) END
             FROM pg_catalog.pg_roles r, pg_catalog.pg_class c, pg_catalog.pg_namespace n,
                  pg_catalog.pg_roles o
             WHERE r.rolname = $1 AND NOT r.rolsuper AND n.nspname = 'storage'
               AND c.relnamespace = n.oid AND c.relname = 'objects' AND o.oid = c.relowner
               AND pg_catalog.pg_has_role(r.oid, c.relowner, 'MEMBER')
             UNION ALL
             -- The last three read or write the files of the server.
             SELECT pg_catalog.format('REVOKE %I FROM %I;', o.rolname, m.rolname)
             FROM pg_catalog.pg_roles r
             JOIN pg_catalog.pg_roles m ON pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER')
             JOIN pg_catalog.pg_auth_members g ON g.member = m.oid
             JOIN pg_catalog.pg_roles o ON o.oid = g.roleid
             WHERE r.rolname = $1 AND NOT r.rolsuper AND NOT m.rolsuper AND NOT m.rolbypassrls
               AND (o.rolsuper OR o.rolbypassrls
                    OR o.rolname IN ('pg_read_server_files', 'pg_write_server_files',
                                     'pg_execute_server_program'))",
            &[role.into()],
        )?;
        let component = format!("role {role}");
        findings.push(if fixes.is_empty() {
            good(component, "is held by row security")
        } else {
            bad(
                component,
                "passes row security or owns storage.objects, by itself or as a member of another role",
                fixes.join(" "),
            )
        });
    }
    Ok(findings)
}

fn policies_of(policies: &[Policy]) -> Result<Vec<Finding>, Error> {
    let has_authenticated = policy::has_role(policy::AUTHENTICATED)?;
    let finding = |policy: &Policy| {
        if policy.role == policy::AUTHENTICATED && !has_authenticated {
            return Ok(good(policy.component(), "there is no role authenticated to need it"));
        }
        Ok(as_made(policy.component(), policy.state()?))
    };
    policies.iter().map(finding).collect()
}

fn as_made(component: impl Into<String>, state: State) -> Finding {
    match state {
        State::Installed => good(component, "as pg_civic makes it"),
        State::Missing => bad(component, "missing", SETUP),
        State::Different => bad(component, "not as pg_civic makes it", SETUP),
    }
}

/// What a policy of the firewall calls, and what an earlier version has left of it.
fn firewall_functions(functions: &[firewall::Function]) -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for function in functions {
        findings.push(match function.state()? {
            firewall::State::Others => {
                let fix = format!(
                    "SELECT * FROM civic.setup(); -- after {} has been renamed or dropped",
                    function.component()
                );
                bad(function.component(), "not pg_civic's", fix)
            }
            firewall::State::Missing => as_made(function.component(), State::Missing),
            firewall::State::Different => as_made(function.component(), State::Different),
            firewall::State::Installed => as_made(function.component(), State::Installed),
        });
    }
    Ok(findings)
}

fn policies() -> Result<Vec<Finding>, Error> {
    let mut findings = firewall_functions(&firewall::OBJECTS)?;
    findings.extend(policies_of(&POLICIES)?);
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
        None if files::has_own_index()? => {
            bad(component, format!("{} is invalid, or another", files::INDEX), SETUP)
        }
        None => {
            let fix = format!(
                "CREATE INDEX CONCURRENTLY {} ON storage.objects (bucket_id, name COLLATE pg_catalog.\"C\");",
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
        findings.push(if trigger.is_enabled && trigger.is_as_made {
            good(component, "enabled")
        } else if trigger.is_enabled {
            let fix =
                format!("SELECT * FROM civic.setup({});", pgrx::spi::quote_literal(&trigger.table));
            bad(component, "not as pg_civic makes it", fix)
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
         JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid AND p.proname = 'notify_ticket_update'
         JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'public'
         WHERE NOT t.tgisinternal AND t.tgparentid = 0",
        &[],
    )?;
    for fix in left {
        let detail =
            "of the application's migrations: tells of sensitive tickets, and can fail a write";
        findings.push(bad("trigger of public.notify_ticket_update()", detail, fix));
    }
    Ok(findings)
}

/// What has the library preloaded. Hidden from a role that could not add a library either.
fn preload_statement() -> Result<Option<String>, Error> {
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

/// Without the relay all is right but slow, so it is told and not held against anybody.
fn relay() -> Result<Finding, Error> {
    let component = "relay";
    let Some(shared) = shared::shared() else {
        let detail = "the library is not preloaded: at its commit each change of a ticket waits for \
                      the cluster's one lock of NOTIFY, and wakes every listener";
        return Ok((component.to_owned(), true, detail.to_owned(), preload_statement()?));
    };
    Ok(match shared.relay.is_this_database() {
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
        Some(true) if shared.relay.pid().is_some() => good(component, "running"),
        _ => {
            let detail = "not running: the server's log says why; events go out by ordinary NOTIFY";
            bad(component, detail, "SELECT pg_reload_conf(); -- and wait a second")
        }
    })
}

/// The role may have been made after the extension, which then granted it nothing.
fn service_role() -> Result<Option<Finding>, Error> {
    let component = "civic.publish() for service_role";
    let may_publish = catalog::texts(
        "SELECT pg_catalog.has_function_privilege(oid, 'civic.publish(text, jsonb, boolean)', 'EXECUTE')
         FROM pg_catalog.pg_roles WHERE rolname = 'service_role'",
        &[],
    )?;
    Ok(may_publish.first().map(|may_publish| match may_publish.as_str() {
        "true" => good(component, "granted"),
        _ => {
            let fix =
                "GRANT EXECUTE ON FUNCTION civic.publish(text, jsonb, boolean) TO service_role;";
            bad(component, "not granted: the application's server side sends no events", fix)
        }
    }))
}

fn sensitive_events() -> Result<Finding, Error> {
    let component = "civic.sensitive_events";
    Ok(match settings::sensitive_events() {
        SensitiveEvents::Redacted => good(component, "redacted"),
        SensitiveEvents::Restricted => good(component, "restricted"),
        SensitiveEvents::Full => {
            let detail = "full: every listener of the municipality hears of each sensitive ticket";
            bad(component, detail, default_of(component)?)
        }
    })
}

/// A list of roles, and what it means where it is empty.
fn readers(setting: &'static str, if_empty: &str) -> Result<Finding, Error> {
    let access = settings::access();
    let readers = match setting {
        "civic.event_listeners" => &access.event_listeners,
        _ => &access.sensitive_readers,
    };
    Ok(if readers.is_empty() {
        bad(setting, format!("empty: {if_empty}"), default_of(setting)?)
    } else {
        good(setting, readers.join(", "))
    })
}

/// The statement that takes a setting back to its default, there where it was set.
fn default_of(setting: &str) -> Result<String, Error> {
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
