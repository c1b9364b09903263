//! What of the storage service is configured, and whether its secrets are safe. No value is shown.

use super::super::plan::{Finding, bad, good, unrepaired};
use super::super::storage;
use super::server::preload_statement;
use crate::catalog;
use crate::error::Error;
use crate::settings::service as settings;
use crate::storage::StorageError;
use crate::storage::api::secrets_are_safe;
use crate::storage::attachment::Attachments;

pub fn findings() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![storage()];
    findings.extend(key());
    findings.extend(links());
    findings.extend([whatsapp(), secrets()?]);
    if storage::exists()? {
        findings.push(attachments()?);
    }
    Ok(findings)
}

/// A part of the service, of which all settings or none must be set.
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
    // Either signs links, so one of them is enough for that.
    match (has_key, has_secret) {
        (false, true) => part("storage service", &[url, ("civic.jwt_secret (links alone)", true)]),
        (true, false) => part("storage service", &[url, key]),
        _ => part("storage service", &[url, key, ("civic.jwt_secret", has_secret)]),
    }
}

/// A key that is not a JWT, which the gateway of a project replaces by one, and the API itself refuses. A
/// URL does not say which of the two it names; the gateway has the API at `/storage/v1`.
fn key() -> Option<Finding> {
    let component = "civic.service_key";
    settings::service_key().filter(|key| !key.is_jwt())?;
    let is_gateway = settings::storage_url().is_none_or(|url| url.ends_with("/storage/v1"));
    Some(if is_gateway {
        good(component, "not a JWT: sent as apikey, and the gateway sends a JWT in its place")
    } else {
        let detail = "not a JWT, and the Storage API itself, which civic.storage_url seems to name, refuses \
                      such a key: set civic.supabase_url instead, or a civic.storage_url of the gateway, \
                      which ends in /storage/v1, or set the JWT of service_role as the key";
        unrepaired(component, detail)
    })
}

/// How links are made. Nothing in the database says how the Storage API checks them.
fn links() -> Option<Finding> {
    settings::jwt_secret().and(settings::storage_url())?;
    let detail = "made here with HS256 over civic.jwt_secret: AUTH_JWT_ALGORITHM of the Storage API must be \
                  HS256, its default. If the API has a key of its own for signing URLs, its links look \
                  different, and both are served";
    Some(good("links to files", detail))
}

fn whatsapp() -> Finding {
    let account = settings::twilio_account_sid().is_some();
    let token = settings::twilio_auth_token().is_some();
    let parts = [("civic.twilio_account_sid", account), ("civic.twilio_auth_token", token)];
    part("WhatsApp media", &parts)
}

/// Whether a role other than superusers can read them.
fn secrets() -> Result<Finding, Error> {
    let component = "secrets of the storage service";
    let found = catalog::texts(
        "SELECT pg_catalog.concat_ws(' in ', 'role ' || pg_catalog.quote_ident(r.rolname),
                                     'database ' || pg_catalog.quote_ident(b.datname))
         FROM pg_catalog.pg_db_role_setting d
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = d.setrole
         LEFT JOIN pg_catalog.pg_database b ON b.oid = d.setdatabase
         WHERE EXISTS (SELECT FROM pg_catalog.unnest(d.setconfig) AS c (assignment)
                       WHERE pg_catalog.lower(pg_catalog.split_part(c.assignment, '=', 1)) = ANY ($1))
         ORDER BY 1",
        &[settings::SECRETS.map(str::to_owned).to_vec().into()],
    )?;
    if !found.is_empty() {
        let places: Vec<_> =
            found.iter().map(|place| if place.is_empty() { "all roles" } else { place }).collect();
        let detail = format!(
            "a secret is set for {}, where every role can read it and nothing uses it: change the secret, \
             write the new one into the configuration file, and remove the old one with ALTER … RESET ALL, \
             which also removes the other settings made there",
            places.join(", ")
        );
        return Ok(unrepaired(component, detail));
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
        let detail = "the library is not preloaded: every role can read them with SHOW, and a reload writes \
                      them into the server's log; the storage service refuses to run";
        bad(component, detail, preload_statement()?.unwrap_or_default())
    })
}

fn attachments() -> Result<Finding, Error> {
    let component = "civic.media_table";
    let setting = settings::media_table();
    Ok(match Attachments::find(&setting) {
        Ok(attachments) if attachments.is_unique()? => good(component, setting),
        Ok(attachments) => {
            let detail = format!(
                "{setting} has no unique index on file_id: a file that is confirmed twice at the same time \
                 is recorded twice"
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
