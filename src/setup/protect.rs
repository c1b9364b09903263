//! `civic.protect()`: the application's own tables under row security.
//!
//! Everything on a table happens as its owner. `rules` and `plan` decide without PostgreSQL what a table
//! gets.

mod check;
mod notes;
mod parts;
mod plan;
mod registry;
mod rules;
mod tables;

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::quote_literal;

use super::firewall::{ROW_FUNCTIONS, ROWS, RowSchema};
use super::plan::{
    self as steps, Component, Components, REMOVED, SKIPPED, State, Step, boxed, step, walk,
};
use super::policy::{AUTHENTICATED, has_role};
use super::privileges;
use super::relation::RowSecurity;
use super::rights::TableRights;
use super::{SetupError, require};
use crate::error::Error;
use crate::pg::required;
use crate::{catalog, pg};
use parts::{Guard, Policies, RowSecurityOf};
use registry::Entry;
use rules::{Readable, Request, Rules};
use tables::Target;

pub use check::findings;

/// The row of `setup()` for a table of tickets that is not protected.
pub fn open_row(oid: pg_sys::Oid) -> Result<Option<Step>, Error> {
    // What `protect()` does not take is not open to other sessions, or a part of another table.
    let Ok(target) = Target::find(oid) else { return Ok(None) };
    if !target.ancestors()?.is_empty() || protected()?.iter().any(|other| other.relation.oid == oid)
    {
        return Ok(None);
    }
    let detail = format!(
        "open: who has rights on it reads and changes the rows of every municipality; to close it: {}",
        check::detected(&target)
    );
    Ok(Some(step(format!("rows of {}", target.relation.name), SKIPPED, detail)))
}

/// The call that protects a table by these rules.
fn call(table: &str, rules: &Rules) -> String {
    let list = |names: &[String]| {
        let names: Vec<_> = names.iter().map(quote_literal).collect();
        if names.is_empty() { "'{}'".to_owned() } else { format!("ARRAY[{}]", names.join(", ")) }
    };
    let one = |name: &Option<String>| quote_literal(name.as_deref().unwrap_or_default());
    format!(
        "SELECT * FROM civic.protect({}, tenant_column => {}, owner_columns => {}, \
         assigned_column => {}, sensitive_column => {}, ticket_column => {}, guarded_columns => {}, \
         readable => {});",
        quote_literal(table),
        quote_literal(&rules.tenant),
        list(&rules.owners),
        one(&rules.assigned),
        one(&rules.sensitive),
        one(&rules.ticket),
        list(&rules.guarded),
        quote_literal(rules.readable.name()),
    )
}

/// What a table with its partitions and children gets, in the order of creation.
fn components(target: &Target, rules: &Rules) -> Result<Components, Error> {
    let tickets = tables::tickets_of(target, rules)?;
    let fix = call(&target.relation.name, rules);
    let has_authenticated = has_role(AUTHENTICATED)?;
    let mut components: Components = vec![];
    let mut tree = vec![target.clone()];
    tree.extend(target.descendants()?);
    for table in tree {
        if !table.takes_policies() {
            let why = "a foreign table cannot have policies: who reads it directly reads every row";
            let state = State::Unknown(why.to_owned());
            let name = format!("policies of {}", table.relation.name);
            components.extend(boxed([steps::Skipped(name, state)]));
            continue;
        }
        let relation = table.relation.clone();
        let mut policies = plan::policies(rules, &table.table, tickets.as_ref())?;
        // Without the role nobody needs what these permit.
        policies.retain(|policy| has_authenticated || !policy.is_permissive);
        components.extend(boxed([Policies {
            policies,
            relation: relation.clone(),
            fix: fix.clone(),
        }]));
        components.extend(boxed(Guard::of(&table, rules, &fix)));
        components.extend(boxed([TableRights(relation.clone())]));
        // Last: no statement of the application meets row security without policies.
        components.extend(boxed([RowSecurityOf(RowSecurity(relation))]));
    }
    Ok(components)
}

/// What the caller and the owners lack to change a table with its partitions and children.
fn missing_privileges(target: &Target, has_trigger: bool) -> Result<Vec<String>, Error> {
    let needed: &[&str] = if has_trigger { &["TRIGGER"] } else { &[] };
    let mut missing = privileges::missing(&target.relation, needed, false)?;
    for table in target.descendants()?.iter().filter(|table| table.takes_policies()) {
        let needed = if table.is_partition { &[] } else { needed };
        missing.extend(privileges::missing(&table.relation, needed, false)?);
    }
    Ok(missing)
}

/// The whole table of a partition or an inheritance child.
///
/// Errors: 42809 if that is not protected.
fn refuse_parts(target: &Target) -> Result<(), Error> {
    let Some(root) = target.ancestors()?.pop() else { return Ok(()) };
    let remedy = format!("SELECT * FROM civic.protect('{}');", root.relation.name);
    let (why, table) =
        (format!("is a part of table {}", root.relation.name), target.relation.name.clone());
    let remedy = format!("Protect the whole table, with its parts: {remedy}");
    Err(SetupError::NotProtectable { table, why, remedy }.into())
}

fn protect(oid: pg_sys::Oid, request: Request) -> Result<Vec<Step>, Error> {
    catalog::begin()?;
    let target = Target::find(oid)?;
    refuse_parts(&target)?;
    let rules = Rules::resolve(request, &target.table)?;
    let entry = Entry {
        schema: target.schema.clone(),
        table: target.relname.clone(),
        rules: rules.clone(),
    };
    let mut tables = vec![(target.clone(), rules.clone())];
    tables.extend(left_closed(&entry)?);
    let mut missing = vec![];
    for (table, rules) in &tables {
        missing.extend(missing_privileges(table, !rules.guarded.is_empty())?);
    }
    require("protect the table", missing)?;

    let mut rows = walk(boxed([RowSchema]), steps::set_up)?;
    rows.extend(together(walk(boxed(ROW_FUNCTIONS), steps::set_up)?));
    for (table, rules) in &tables {
        rows.extend(walk(components(table, rules)?, steps::set_up)?);
        rows.extend(replace_migrated(table)?);
    }
    registry::record(&entry)?;
    rows.extend(notes::of(&target, &rules)?);
    Ok(rows)
}

/// One row for all functions, if the same has happened to each of them.
fn together(rows: Vec<Step>) -> Vec<Step> {
    match &rows[..] {
        [(_, action, detail), rest @ ..] if rest.iter().all(|(_, other, _)| other == action) => {
            vec![step(format!("functions of schema {ROWS}"), action, detail)]
        }
        _ => rows,
    }
}

/// The other protected tables, if the functions behind the policies are missing: a restore has left them
/// closed. With the functions they would open to the policies of others, so they are repaired as well.
fn left_closed(entry: &Entry) -> Result<Vec<(Target, Rules)>, Error> {
    let mut are_there = true;
    for function in ROW_FUNCTIONS {
        are_there &= !function.state()?.is_missing();
    }
    let mut found = vec![];
    if !are_there {
        for other in registry::entries()? {
            let is_other = (&other.schema, &other.table) != (&entry.schema, &entry.table);
            let target = Target::named(&other.schema, &other.table)?;
            found.extend(target.filter(|_| is_other).map(|target| (target, other.rules)));
        }
    }
    Ok(found)
}

/// Drops the policies of the application's migrations: they are permissive, and one of them would recurse.
fn replace_migrated(target: &Target) -> Result<Vec<Step>, Error> {
    let mut rows = vec![];
    for name in parts::migrated(target)? {
        parts::drop_policy(&target.relation, &name)?;
        let component = format!("policy \"{name}\" on {}", target.relation.name);
        rows.push(step(component, REMOVED, "of the application's migrations, replaced"));
    }
    Ok(rows)
}

fn unprotect(oid: pg_sys::Oid) -> Result<Vec<Step>, Error> {
    catalog::begin()?;
    let target = Target::find(oid)?;
    refuse_parts(&target)?;
    require("unprotect the table", missing_privileges(&target, false)?)?;
    remove(&target)
}

fn remove(target: &Target) -> Result<Vec<Step>, Error> {
    let mut rows = vec![];
    let mut tree = vec![target.clone()];
    tree.extend(target.descendants()?);
    for table in tree.iter().filter(|table| table.takes_policies()) {
        let relation = &table.relation;
        if !table.is_partition {
            rows.extend(parts::remove_guard(relation)?);
        }
        let policies = parts::remove_policies(relation)?;
        let was_protected = !policies.is_empty();
        rows.extend(policies);
        rows.extend(TableRights(relation.clone()).remove()?);
        if was_protected && relation.has_row_security {
            let detail = format!(
                "stays enabled; to open the table: ALTER TABLE {} DISABLE ROW LEVEL SECURITY;",
                relation.name
            );
            rows.push(step(format!("row security of {}", relation.name), steps::KEPT, detail));
        }
    }
    registry::forget(&target.schema, &target.relname)?;
    if rows.is_empty() {
        rows.push(step(format!("table {}", target.relation.name), SKIPPED, "is not protected"));
    }
    Ok(rows)
}

/// The whole tables that are protected, registered or not.
fn protected() -> Result<Vec<Target>, Error> {
    let mut found: Vec<Target> = vec![];
    let mut add = |target: Target| {
        if !found.iter().any(|other| other.relation.oid == target.relation.oid) {
            found.push(target);
        }
    };
    for entry in registry::entries()? {
        if let Some(target) = Target::named(&entry.schema, &entry.table)? {
            add(target);
        }
    }
    for oid in parts::with_policies()? {
        if let Some(relation) = super::relation::Relation::with_oid(oid)? {
            let target = Target::of(relation)?;
            add(target.ancestors()?.pop().unwrap_or(target));
        }
    }
    Ok(found)
}

/// What the caller lacks to unprotect every table.
pub fn missing_to_tear_down() -> Result<Vec<String>, Error> {
    let mut missing = vec![];
    for target in protected()? {
        missing.extend(missing_privileges(&target, false)?);
    }
    Ok(missing)
}

/// Unprotects every table, and drops the functions behind the policies.
pub fn tear_down() -> Result<Vec<Step>, Error> {
    let mut rows = vec![];
    for target in protected()?.iter().rev() {
        rows.extend(remove(target)?);
    }
    if RowSchema.state()?.is_missing() {
        return Ok(rows);
    }
    let users = parts::users_of_functions()?;
    if !users.is_empty() {
        let detail = format!("used by {}", users.join(", "));
        rows.push(step(RowSchema.name(), steps::KEPT, detail));
        return Ok(rows);
    }
    rows.extend(together(walk(boxed(ROW_FUNCTIONS), steps::tear_down)?));
    rows.extend(walk(boxed([RowSchema]), steps::tear_down)?);
    Ok(rows)
}

/// A column name as an argument, at most as long as names of the server.
type Name<'a> = pg::Text<'a>;

fn owned(names: Option<pg::Texts<'_>>) -> Option<Vec<String>> {
    names.map(|names| names.iter().flatten().map(|name| name.to_string()).collect())
}

#[pg_schema]
mod civic {
    use super::*;

    /// Puts a table under the rules of its municipality.
    ///
    /// Errors: 42P01 for an OID of nothing, 42809 for what is not a table of the application, or a part
    /// of one; 42703 and 42804 for a column that does not exist or fit; 55000 for a ticket column whose
    /// table is not protected; 42501 for a role that is not the table's owner. Nothing is half done.
    #[pg_extern(volatile, parallel_unsafe, cost = 10000)]
    #[search_path(pg_catalog, pg_temp)]
    #[allow(clippy::too_many_arguments)]
    fn protect(
        target: Option<pg::Regclass>,
        tenant_column: default!(Option<Name<'_>>, "'tenant_id'"),
        owner_columns: default!(Option<pg::Texts<'_>>, "NULL"),
        assigned_column: default!(Option<Name<'_>>, "NULL"),
        sensitive_column: default!(Option<Name<'_>>, "NULL"),
        ticket_column: default!(Option<Name<'_>>, "NULL"),
        guarded_columns: default!(Option<pg::Texts<'_>>, "NULL"),
        readable: default!(Option<pg::Text<'_>>, "'staff'"),
    ) -> Result<
        TableIterator<
            'static,
            (name!(component, String), name!(action, &'static str), name!(detail, String)),
        >,
        ErrorReport,
    > {
        let text = |name: Option<Name<'_>>| name.map(|name| name.as_str().to_owned());
        let request = Request {
            tenant: required("tenant_column", text(tenant_column))?,
            owners: owned(owner_columns),
            assigned: text(assigned_column),
            sensitive: text(sensitive_column),
            ticket: text(ticket_column),
            guarded: owned(guarded_columns),
            readable: Readable::parse(&required("readable", readable)?)?,
        };
        Ok(TableIterator::new(super::protect(required("target", target)?.0, request)?))
    }

    /// Undoes `protect`. Row security stays enabled.
    #[pg_extern(volatile, parallel_unsafe, cost = 10000)]
    #[search_path(pg_catalog, pg_temp)]
    fn unprotect(
        target: Option<pg::Regclass>,
    ) -> Result<
        TableIterator<
            'static,
            (name!(component, String), name!(action, &'static str), name!(detail, String)),
        >,
        ErrorReport,
    > {
        Ok(TableIterator::new(super::unprotect(required("target", target)?.0)?))
    }
}
