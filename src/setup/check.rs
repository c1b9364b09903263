//! What is right and what is not, each with the statement that repairs it.

pub mod exposure;
mod media;
mod realtime;
mod realtime_tenant;
mod server;
mod service;

use super::plan::{self, Finding, bad, readable, walk};
use super::{protect, storage, tickets};
use crate::error::Error;
use crate::media::store;
use crate::pg::role;
use crate::pg::shared::{self, counters};

/// A part of the check, by the name that reports what cannot be read.
type Part = (&'static str, fn() -> Result<Vec<Finding>, Error>);

/// The parts, in the order of the check's rows.
const PARTS: [Part; 18] = [
    ("event triggers", exposure::event_triggers),
    ("version", server::version),
    ("storage", of_storage),
    ("roles", || exposure::part("roles")),
    ("owners", || exposure::part("owners")),
    ("triggers of others", || exposure::part("triggers of others")),
    ("views", || exposure::part("views")),
    ("functions", || exposure::part("functions")),
    ("trigger", of_tickets),
    ("protected tables", protect::findings),
    ("realtime", realtime::findings),
    ("relay", server::relay),
    ("media worker", || Ok(vec![media::worker()?])),
    ("failed media jobs", media::failed),
    ("files of sensitive tickets", media::restricted),
    ("storage service", service::findings),
    ("privileges", server::privileges),
    ("settings", server::settings),
];

pub fn check() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for (name, part) in PARTS {
        findings.extend(readable(name, part())?);
    }
    record(&findings);
    Ok(findings)
}

/// Keeps the number of findings for monitoring, if the caller sees all of the database that the workers serve.
/// From a member of pg_monitor row security hides the buckets, for example.
fn record(findings: &[Finding]) {
    let is_owner = store::owner().is_some_and(role::has_rights_of);
    let is_served =
        shared::shared().is_some_and(|shared| shared.relay.is_this_database() != Some(false));
    if is_owner && is_served {
        counters::record_check(findings.iter().filter(|(_, is_ok, ..)| !is_ok).count());
    }
}

fn of_storage() -> Result<Vec<Finding>, Error> {
    let mut findings = walk(storage::components()?, plan::check)?;
    if storage::exists()? {
        findings.extend(readable("rights in schema storage", exposure::memberships("storage"))?);
    }
    Ok(findings)
}

fn of_tickets() -> Result<Vec<Finding>, Error> {
    let mut findings = walk(tickets::components()?, plan::check)?;
    if findings.is_empty() {
        let fix = "SELECT * FROM civic.setup('public.tickets');";
        findings.push(bad("trigger", "no table has it, so no changes are published", fix));
    }
    findings.extend(tickets::migrated()?);
    Ok(findings)
}
