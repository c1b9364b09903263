//! What pg_civic does to other schemas: only on request, all of it or nothing, reported row by row.
//!
//! The caller's own rights decide. What the caller lacks is reported before anything is changed.

mod check;
mod firewall;
mod ledger;
mod plan;
mod policy;
pub mod privileges;
mod publication;
mod realtime;
mod relation;
mod rights;
mod storage;
mod tickets;

use std::collections::HashSet;

use pgrx::iter::TableIterator;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Error;
use crate::{catalog, pg};
use plan::{SKIPPED, Step, step};
use publication::Published;
use realtime::NO_REALTIME;
use storage::{NO_STORAGE, Storage};
use tickets::Trigger;

fn require(action: &'static str, mut missing: Vec<String>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    missing.retain(|right| seen.insert(right.clone()));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Privileges { action, role: catalog::current_role()?, missing })
}

fn set_up(oid: Option<pg_sys::Oid>) -> Result<Vec<Step>, Error> {
    catalog::begin()?;
    let table = oid.map(tickets::Table::find).transpose()?;
    let (storage, messages) = (Storage::find()?, realtime::messages()?);
    let published = match &table {
        Some(table) => Published::find(table.relation.oid, &table.relation.name)?,
        None => None,
    };
    let mut missing = vec![];
    if let Some(storage) = &storage {
        missing.extend(storage.missing_for_setup()?);
    }
    if let Some(messages) = &messages {
        missing.extend(realtime::missing_privileges(messages)?);
    }
    if let Some(table) = &table {
        missing.extend(table.missing_privileges()?);
    }
    missing.extend(published.iter().flat_map(Published::missing_privileges));
    require("set up pg_civic", missing)?;

    let mut steps = vec![];
    match &storage {
        Some(storage) => {
            storage.refuse_traps()?;
            for component in storage.buckets().iter().chain(&storage.components()?) {
                steps.extend(plan::set_up(component.as_ref())?);
            }
        }
        None => steps.push(step("storage", SKIPPED, NO_STORAGE)),
    }
    // Before the trigger that sends: no event is sent on a channel that is not guarded.
    match &messages {
        Some(messages) => {
            for component in realtime::components(messages, true) {
                steps.extend(plan::set_up(component.as_ref())?);
            }
        }
        None => steps.push(step("realtime", SKIPPED, NO_REALTIME)),
    }
    let Some(table) = table else {
        steps.push(step("trigger", SKIPPED, "no table of tickets was given"));
        return Ok(steps);
    };
    steps.extend(plan::set_up(&table.trigger()?)?);
    steps.extend(table.columns());
    match published {
        Some(published) => steps.extend(plan::set_up(&published)?),
        // Without Realtime a publication is not expected.
        None => steps.extend(messages.map(|_| {
            let name = publication::name(&table.relation.name);
            step(name, SKIPPED, "there is no publication of this name")
        })),
    }
    Ok(steps)
}

fn tear_down() -> Result<Vec<Step>, Error> {
    catalog::begin()?;
    let (storage, messages) = (Storage::find()?, realtime::messages()?);
    let triggers = tickets::own_triggers()?;
    let mut missing = vec![];
    if let Some(storage) = &storage {
        missing.extend(storage.missing_for_teardown()?);
    }
    if let Some(messages) = &messages {
        missing.extend(realtime::missing_privileges(messages)?);
    }
    for trigger in &triggers {
        missing.extend(trigger.missing_privileges()?);
    }
    require("tear down pg_civic", missing)?;

    let mut steps = vec![];
    for Trigger { table, .. } in &triggers {
        if let Some(published) = Published::find(table.oid, &table.name)? {
            steps.extend(plan::tear_down(&published)?);
        }
    }
    for trigger in &triggers {
        steps.extend(plan::tear_down(trigger)?);
    }
    if triggers.is_empty() {
        steps.push(step("trigger", SKIPPED, "does not exist"));
    }
    steps.extend(tickets::revoke_grants()?);
    // In the opposite order: a function is dropped after the policies that call it.
    if let Some(messages) = &messages {
        for component in realtime::components(messages, false).iter().rev() {
            steps.extend(plan::tear_down(component.as_ref())?);
        }
    }
    match &storage {
        Some(storage) => {
            for component in storage.components()?.iter().rev().chain(&storage.buckets()) {
                steps.extend(plan::tear_down(component.as_ref())?);
            }
        }
        None => steps.push(step("storage", SKIPPED, NO_STORAGE)),
    }
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
