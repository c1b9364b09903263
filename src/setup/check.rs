//! What is right and what is not, each with the statement that repairs it.

mod exposure;
mod media;
mod realtime;
mod server;
mod service;

use super::plan::{Finding, bad, good, readable, unrepaired};
use super::storage::{self, NO_STORAGE, Storage};
use super::{plan, tickets};
use crate::error::Error;

/// The parts of the check, in the order of its rows.
const PARTS: [(&str, fn() -> Result<Vec<Finding>, Error>); 16] = [
    ("event triggers", exposure::event_triggers),
    ("version", server::version),
    ("storage", of_storage),
    ("roles", exposure::roles),
    ("owners", exposure::owners),
    ("triggers of others", exposure::triggers_of_others),
    ("views", exposure::views),
    ("functions", exposure::functions),
    ("trigger", of_tickets),
    ("realtime", realtime::findings),
    ("publication", realtime::published),
    ("relay", server::relay),
    ("media worker", || Ok(vec![media::worker()?])),
    ("storage service", service::findings),
    ("privileges", server::privileges),
    ("settings", server::settings),
];

pub fn check() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for (name, part) in PARTS {
        findings.extend(readable(name, part())?);
    }
    Ok(findings)
}

fn of_storage() -> Result<Vec<Finding>, Error> {
    let Some(storage) = Storage::find()? else {
        return Ok(vec![good("storage", format!("{NO_STORAGE}, so there are no files to guard"))]);
    };
    let mut findings = vec![];
    let mut components = storage.components()?;
    let foreign = storage::foreign_columns()?.join(", ");
    if foreign.is_empty() {
        components.splice(0..0, storage.buckets());
    } else {
        let detail = format!("{foreign}: not as Storage creates them, so the buckets are not read");
        findings.push(unrepaired("columns of Storage's tables", detail));
    }
    for component in components {
        findings.extend(plan::check(component.as_ref())?);
    }
    findings.extend(readable("rights in schema storage", exposure::memberships("storage"))?);
    Ok(findings)
}

fn of_tickets() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for trigger in tickets::triggers(None)? {
        findings.extend(plan::check(&trigger)?);
    }
    if findings.is_empty() {
        let fix = "SELECT * FROM civic.setup('public.tickets');";
        findings.push(bad("trigger", "no table has it, so no changes are published", fix));
    }
    findings.extend(tickets::migrated()?);
    Ok(findings)
}
