//! What pg_civic does to other schemas: only when asked, all of it or nothing, and told row by row.
//!
//! The caller's own rights decide. What he lacks is told before anything is touched.

mod buckets;
mod check;
mod error;
mod files;
mod firewall;
mod grants;
mod ledger;
mod policy;
mod publication;
mod realtime;
mod rights;
mod tickets;

pub use error::SetupError;

use std::collections::HashSet;

use pgrx::iter::TableIterator;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::CatalogError;
use crate::error::Error;
use crate::{catalog, pg};

/// One step of `setup` or `teardown`: what it was about, what was done, and why.
type Step = (String, &'static str, String);

const DONE: &str = "done";
const ALREADY: &str = "already there";
const SKIPPED: &str = "skipped";
const REMOVED: &str = "removed";
const KEPT: &str = "kept";

fn step(component: impl Into<String>, action: &'static str, detail: impl Into<String>) -> Step {
    (component.into(), action, detail.into())
}

fn require(action: &'static str, mut missing: Vec<String>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    missing.retain(|right| seen.insert(right.clone()));
    if missing.is_empty() {
        return Ok(());
    }
    Err(CatalogError::Privileges { action, role: catalog::current_role()?, missing }.into())
}

fn set_up(tickets: Option<pg_sys::Oid>) -> Result<Vec<Step>, Error> {
    catalog::begin()?;
    let table = tickets.map(tickets::Table::find).transpose()?;
    let mut missing = files::missing_privileges(files::Purpose::SetUp)?;
    missing.extend(realtime::missing_privileges()?);
    missing.extend(
        table
            .iter()
            .map(tickets::Table::missing_privileges)
            .collect::<Result<Vec<_>, _>>()?
            .concat(),
    );
    require("set up pg_civic", missing)?;
    firewall::refuse_others()?;

    let mut steps = files::set_up()?;
    // Before the trigger that sends: nothing is said on a channel that is not guarded.
    steps.extend(realtime::set_up()?);
    match table {
        Some(table) => {
            steps.extend(table.set_up()?);
            steps.extend(publication::set_up(&table)?);
        }
        None => steps.push(step("trigger", SKIPPED, "no table of tickets was given")),
    }
    Ok(steps)
}

fn tear_down() -> Result<Vec<Step>, Error> {
    catalog::begin()?;
    let mut missing = files::missing_privileges(files::Purpose::TearDown)?;
    missing.extend(realtime::missing_privileges()?);
    missing.extend(tickets::missing_privileges_to_remove()?);
    require("tear down pg_civic", missing)?;

    let mut steps = publication::tear_down()?;
    steps.extend(tickets::tear_down()?);
    steps.extend(realtime::tear_down()?);
    steps.extend(files::tear_down()?);
    Ok(steps)
}

#[pg_schema]
mod civic {
    use super::*;

    /// Guards the buckets and makes the tickets of a table heard.
    ///
    /// Errors: 42P01 for an OID of nothing, 42809 for what is no table, 42703 for a table without
    /// `tenant_id`, 42501 for a role that lacks a right that some step needs. Nothing is half done.
    #[pg_extern(volatile, parallel_unsafe, cost = 10000)]
    #[search_path(pg_catalog, pg_temp)]
    fn setup(
        tickets: default!(Option<pg::Regclass>, "NULL"),
    ) -> Result<
        TableIterator<
            'static,
            (name!(component, String), name!(action, &'static str), name!(detail, String)),
        >,
        ErrorReport,
    > {
        Ok(TableIterator::new(set_up(tickets.map(|table| table.0))?))
    }

    /// Undoes `setup`: triggers, policies, and those buckets that hold nothing.
    #[pg_extern(volatile, parallel_unsafe, cost = 10000)]
    #[search_path(pg_catalog, pg_temp)]
    fn teardown() -> Result<
        TableIterator<
            'static,
            (name!(component, String), name!(action, &'static str), name!(detail, String)),
        >,
        ErrorReport,
    > {
        Ok(TableIterator::new(tear_down()?))
    }

    /// What is right, what is not, and the statement that mends it.
    #[pg_extern(stable, parallel_unsafe, cost = 10000)]
    #[search_path(pg_catalog, pg_temp)]
    // pgrx reads the columns' names from the type as it stands here.
    #[allow(clippy::type_complexity)]
    fn check() -> Result<
        TableIterator<
            'static,
            (
                name!(component, String),
                name!(ok, bool),
                name!(detail, String),
                name!(fix, Option<String>),
            ),
        >,
        ErrorReport,
    > {
        Ok(TableIterator::new(check::check()?))
    }
}
