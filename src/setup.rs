//! What pg_civic does to other schemas: only on request, all of it or nothing, reported row by row.
//!
//! The caller's own rights decide. What the caller lacks is reported before anything is changed.

mod check;
mod error;
mod firewall;
mod ledger;
mod plan;
mod policy;
pub mod privileges;
mod protect;
mod publication;
mod realtime;
mod relation;
mod rights;
mod storage;
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
use plan::{Step, unneeded, walk};

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
    let mut missing = storage::missing_privileges(|needed| needed.setup)?;
    missing.extend(realtime::missing_privileges()?);
    if let Some(table) = &table {
        missing.extend(table.missing_privileges()?);
    }
    require("set up pg_civic", missing)?;
    storage::refuse_traps()?;

    let mut components = storage::components()?;
    // Before the trigger that sends: no event is sent on a channel that is not guarded.
    components.extend(realtime::components(true)?);
    match table {
        Some(table) => components.extend(table.components()?),
        None => components.push(unneeded("trigger", "no table of tickets was given")),
    }
    let mut steps = walk(components, plan::set_up)?;
    if let Some(oid) = tickets {
        steps.extend(protect::open_row(oid)?);
    }
    Ok(steps)
}

fn tear_down() -> Result<Vec<Step>, Error> {
    catalog::begin()?;
    let mut missing = storage::missing_privileges(|needed| needed.teardown)?;
    missing.extend(realtime::missing_privileges()?);
    missing.extend(tickets::missing_to_tear_down()?);
    missing.extend(protect::missing_to_tear_down()?);
    require("tear down pg_civic", missing)?;

    let mut components = storage::components()?;
    if realtime::messages()?.is_some() {
        components.extend(realtime::components(false)?);
    }
    let tickets = tickets::components()?;
    if tickets.is_empty() {
        components.push(unneeded("trigger", "no table has it"));
    }
    components.extend(tickets);
    // A function is dropped after the policies that call it.
    components.reverse();
    let mut steps = protect::tear_down()?;
    steps.extend(walk(components, plan::tear_down)?);
    steps.extend(tickets::revoke_grants()?);
    Ok(steps)
}

#[pg_schema]
mod civic {
    use super::*;

    /// Guards the buckets, and publishes the changes of the tickets of a table.
    ///
    /// Errors: 42P01 for an OID of nothing, 42809 for what is not a table, 42703 for a table without
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

    /// Undoes `setup`: triggers, policies, and the buckets that are empty.
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

    /// What is right, what is not, and the statement that repairs it.
    #[pg_extern(stable, parallel_unsafe, cost = 10000)]
    #[search_path(pg_catalog, pg_temp)]
    // pgrx reads the names of the columns from the type written here.
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
