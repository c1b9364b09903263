//! What of the storage service is configured, and whether its secrets are safe. No value is shown.

use super::{Finding, bad, good};
use crate::catalog;
use crate::error::Error;
use crate::settings::service as settings;
use crate::setup::files;
use crate::setup::policy::{AUTHENTICATED, OF_MEDIA_JOBS, State, has_role};
use crate::storage::StorageError;
use crate::storage::api::secrets_are_safe;
use crate::storage::attachment::Attachments;

pub fn findings() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![storage(), whatsapp(), secrets()?];
    if files::has_storage()? {
        findings.push(attachments()?);
    }
    findings.extend(grants()?);
    Ok(findings)
}

/// A part of the service that is configured whole, or not at all.
fn part(component: &str, parts: &[(&str, bool)]) -> Finding {
    let named = |wanted: bool| {
        let parts = parts.iter().filter(|(_, is_set)| *is_set == wanted);
        parts.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let (set, missing) = (named(true), named(false));
    if missing.is_empty() {
        good(component, format!("set: {set}"))
    } else if set.is_empty() {
        good(component, format!("not configured: {missing}"))
    } else {
        let fix = format!(
            "SELECT pg_reload_conf(); -- after setting {missing} in the configuration file"
        );
        bad(component, format!("set: {set}; not set: {missing}"), fix)
    }
}

fn storage() -> Finding {
    let has_url = settings::storage_url().is_some();
    let has_key = settings::service_key().is_some();
    let has_secret = settings::jwt_secret().is_some();
    let url = ("civic.storage_url or civic.supabase_url", has_url);
    let key = ("civic.service_key", has_key);
    // Either signs links, so neither has to be there for the other.
    match (has_key, has_secret) {
        (false, true) => part("storage service", &[url, ("civic.jwt_secret (links alone)", true)]),
        (true, false) => part("storage service", &[url, key]),
        _ => part("storage service", &[url, key, ("civic.jwt_secret", has_secret)]),
    }
}

fn whatsapp() -> Finding {
    let account = settings::twilio_account_sid().is_some();
    let token = settings::twilio_auth_token().is_some();
    let parts = [("civic.twilio_account_sid", account), ("civic.twilio_auth_token", token)];
    part("WhatsApp media", &parts)
}

/// A list of names as the server quotes them, in one line of a regular expression.
const QUOTED_LIST: &str =
    r#"^(("([^"]|"")*"|[a-z_][a-z0-9_]*)(, ("([^"]|"")*"|[a-z_][a-z0-9_]*))*)?$"#;

/// Where somebody who is no superuser can read them.
fn secrets() -> Result<Finding, Error> {
    let component = "secrets of the storage service";
    let names = settings::SECRETS.map(str::to_owned).to_vec();
    // The server refuses to RESET a setting that it would not have SET there, so all are taken away,
    // and the others given back. Lists (as pg_dumpall knows them) stand there quoted already.
    let fixes = catalog::texts(
        "SELECT pg_catalog.concat_ws(' ', pg_catalog.format('ALTER %s RESET ALL;', o.object),
                    (SELECT pg_catalog.string_agg(pg_catalog.format('ALTER %s SET %I TO %s;', o.object,
                                s.name, CASE WHEN pg_catalog.lower(s.name) IN (
                                    'local_preload_libraries', 'search_path', 'temp_tablespaces',
                                    'session_preload_libraries', 'unix_socket_directories')
                                    -- SET … FROM CURRENT stores whatever set_config() was given.
                                    AND s.value ~ $2
                                THEN s.value ELSE pg_catalog.quote_literal(s.value) END), ' ')
                     FROM pg_catalog.unnest(d.setconfig) AS c (assignment)
                     CROSS JOIN LATERAL (SELECT pg_catalog.split_part(c.assignment, '=', 1),
                                pg_catalog.substr(c.assignment,
                                                  pg_catalog.strpos(c.assignment, '=') + 1))
                          AS s (name, value)
                     WHERE pg_catalog.lower(s.name) <> ALL ($1)))
         FROM pg_catalog.pg_db_role_setting d
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = d.setrole
         LEFT JOIN pg_catalog.pg_database b ON b.oid = d.setdatabase
         CROSS JOIN LATERAL (SELECT CASE
                    WHEN d.setdatabase = 0 AND d.setrole = 0 THEN 'ROLE ALL'
                    WHEN d.setdatabase = 0 THEN pg_catalog.format('ROLE %I', r.rolname)
                    WHEN d.setrole = 0 THEN pg_catalog.format('DATABASE %I', b.datname)
                    ELSE pg_catalog.format('ROLE %I IN DATABASE %I', r.rolname, b.datname) END)
              AS o (object)
         WHERE EXISTS (SELECT FROM pg_catalog.unnest(d.setconfig) AS c (assignment)
                       WHERE pg_catalog.lower(pg_catalog.split_part(c.assignment, '=', 1)) = ANY ($1))
         ORDER BY 1",
        &[names.into(), QUOTED_LIST.into()],
    )?;
    if !fixes.is_empty() {
        let detail = "a database or a role has one, where every user reads it and nothing uses it: \
                      change it, and put it into the configuration file";
        return Ok(bad(component, detail, fixes.join(" ")));
    }
    let is_any_set = [
        settings::service_key().is_some(),
        settings::jwt_secret().is_some(),
        settings::twilio_auth_token().is_some(),
    ]
    .contains(&true);
    Ok(if !is_any_set {
        good(component, "none is set")
    } else if secrets_are_safe() {
        good(component, "hidden")
    } else {
        let detail = "the library is not preloaded: every role can SHOW them, and a reload writes \
                      them into the server's log; the storage service is shut";
        bad(component, detail, super::preload_statement()?.unwrap_or_default())
    })
}

fn attachments() -> Result<Finding, Error> {
    let component = "civic.media_table";
    let setting = settings::media_table();
    Ok(match Attachments::find(&setting) {
        Ok(attachments) if attachments.is_unique()? => good(component, setting),
        Ok(attachments) => {
            let detail = format!(
                "{setting} has no unique index on file_id: a file that is confirmed twice at once is \
                 recorded twice"
            );
            bad(component, detail, attachments.unique_index_statement())
        }
        Err(error) if error.downcast_ref::<StorageError>().is_some() => {
            let detail = format!("{}: confirm_upload() has nowhere to record", error.message());
            (component.to_owned(), true, detail, None)
        }
        Err(error) => return Err(error),
    })
}

/// The functions that a role of Supabase needs, which may have been made after the extension. What it
/// reads is in [`media_jobs`].
const GRANTS: [(&str, &[&str]); 2] = [
    (
        "service_role",
        &[
            "civic.upload_file(text, text, bytea, text)",
            "civic.get_signed_url(text, text, integer)",
            "civic.download_and_upload_media(text, text, text, text, boolean)",
            "civic.enqueue_media(text, text, text, text, boolean)",
            "civic.cancel_media_job(uuid)",
            "civic.retry_media_job(uuid)",
        ],
    ),
    (
        AUTHENTICATED,
        &["civic.confirm_upload(uuid, text)", "civic.get_signed_url(text, text, integer)"],
    ),
];

fn grants() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for (role, functions) in GRANTS {
        if !has_role(role)? {
            continue;
        }
        let component = format!("storage service for {role}");
        let functions: Vec<_> = functions.iter().map(|function| function.to_string()).collect();
        let mut missing = catalog::texts(
            "SELECT function FROM pg_catalog.unnest($2) AS function
             WHERE NOT pg_catalog.has_function_privilege($1, function, 'EXECUTE')",
            &[role.into(), functions.into()],
        )?;
        let mut fixes = vec![];
        if !missing.is_empty() {
            let functions = missing.join(", ");
            fixes.push(format!("GRANT EXECUTE ON FUNCTION {functions} TO {role};"));
        }
        for (lacks, fix) in media_jobs(role)? {
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

/// What a role lacks to see the jobs that it may see, each with the statement that mends it.
fn media_jobs(role: &str) -> Result<Vec<(String, String)>, Error> {
    let is_person = role == AUTHENTICATED;
    // Where media comes from is for the server's side alone.
    let columns = catalog::texts(
        "SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relname = 'media_jobs'
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'civic'
         WHERE a.attnum > 0 AND NOT a.attisdropped AND NOT ($2 AND a.attname = 'media_url')
           AND NOT pg_catalog.has_column_privilege($1, c.oid, a.attnum, 'SELECT')
         ORDER BY a.attnum",
        &[role.into(), is_person.into()],
    )?;
    let mut missing = vec![];
    if !columns.is_empty() {
        let columns = if is_person { format!(" ({})", columns.join(", ")) } else { String::new() };
        let fix = format!("GRANT SELECT{columns} ON civic.media_jobs TO {role};");
        missing.push(("SELECT on civic.media_jobs".to_owned(), fix));
    }
    let state = if is_person { OF_MEDIA_JOBS.state()? } else { State::Installed };
    if state != State::Installed {
        let drop = if state == State::Different {
            format!("DROP POLICY \"{}\" ON civic.media_jobs; ", OF_MEDIA_JOBS.name)
        } else {
            String::new()
        };
        missing.push((OF_MEDIA_JOBS.component(), format!("{drop}{};", OF_MEDIA_JOBS.statement())));
    }
    Ok(missing)
}
