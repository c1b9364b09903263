//! What is wrong with the protected tables, and which tables are open.

use std::collections::HashSet;

use pgrx::pg_sys::Oid;

use super::parts;
use super::registry::{self, Entry};
use super::rules::{Readable, Request, Rules};
use super::tables::Target;
use super::{call, components, notes};
use crate::catalog;
use crate::error::Error;
use crate::setup::check::exposure;
use crate::setup::firewall::{ROW_FUNCTIONS, RowSchema};
use crate::setup::plan::{self, Finding, bad, boxed, good, readable, unrepaired, walk};
use crate::setup::policy::{AUTHENTICATED, has_role};
use crate::setup::relation::Relation;

pub fn findings() -> Result<Vec<Finding>, Error> {
    let mut rows = vec![];
    let mut registered = HashSet::new();
    let mut trees = vec![];
    for entry in registry::entries()? {
        match Target::named(&entry.schema, &entry.table)? {
            None => rows.push(unrepaired(
                format!("table {}", entry.name()),
                "recorded as protected, but it does not exist",
            )),
            Some(target) => {
                let name = target.relation.name.clone();
                rows.extend(readable(&name, of_table(&entry, &target))?);
                registered.insert(target.relation.oid);
                trees.push(target);
            }
        }
    }
    for oid in parts::with_policies()? {
        let Some(relation) = Relation::with_oid(oid)? else { continue };
        let target = Target::of(relation)?;
        if registered.contains(&oid) || !target.ancestors()?.is_empty() {
            continue;
        }
        let name = format!("table {}", target.relation.name);
        let detail = "has the policies of protect(), but is not recorded as protected";
        rows.push(bad(name, detail, detected(&target)));
        trees.push(target);
    }
    let mut members: Vec<Oid> = vec![];
    let mut names = vec![];
    for target in &trees {
        let mut tree = target.descendants()?;
        tree.push(target.clone());
        for table in tree {
            members.push(table.relation.oid);
            names.push(format!("{}.{}", table.schema, table.relname));
        }
    }
    if !trees.is_empty() {
        let fix = rows_fix(&trees)?;
        rows.extend(of_functions(&fix)?);
        rows.extend(part("views", &members)?);
        rows.extend(part("cascades", &members)?);
        for name in ["roles", "functions"] {
            let exposed = exposure::part_of(name, names.clone())?;
            rows.extend(exposed.into_iter().filter(|(_, is_right, ..)| !is_right));
        }
    }
    rows.extend(open(&members)?);
    Ok(rows)
}

/// The findings of one protected table with its partitions and children.
fn of_table(entry: &Entry, target: &Target) -> Result<Vec<Finding>, Error> {
    let name = &target.relation.name;
    let rules = &entry.rules;
    let components = match components(target, rules) {
        Ok(components) => components,
        // A column has been dropped, renamed or given another type; the table of tickets is gone.
        Err(error) if error.downcast_ref::<crate::setup::SetupError>().is_some() => {
            return Ok(vec![bad(format!("table {name}"), error.message(), detected(target))]);
        }
        Err(error) => return Err(error),
    };
    let mut rows = walk(components, plan::check)?;
    // Nothing of it was ever protected: another table had the name. Its arguments say nothing of this one.
    if !parts::has_policies(&target.relation)? {
        for (.., fix) in &mut rows {
            *fix = fix.take().map(|_| detected(target));
        }
    }
    let owner = &target.relation.owner_name;
    rows.push(good(
        format!("owner of {name}"),
        if target.relation.forces_row_security {
            format!("row security is forced: it holds the owner {owner} too")
        } else {
            format!("{owner} and roles with BYPASSRLS pass row security")
        },
    ));
    for statement in notes::missing_indexes(target, rules)? {
        rows.push(bad(
            format!("index on {name}"),
            "missing: policies read more rows than they return",
            statement,
        ));
    }
    rows.extend(trial(target)?);
    Ok(rows)
}

/// Whether `authenticated` can query the table: policies of others may refer to each other in a circle.
fn trial(target: &Target) -> Result<Option<Finding>, Error> {
    let name = format!("query of {} as authenticated", target.relation.name);
    if !has_role(AUTHENTICATED)? {
        return Ok(None);
    }
    // Functions in the policies of others run as authenticated. The caller must have these rights.
    let may_select = "SELECT pg_catalog.has_any_column_privilege($1, $2, 'SELECT')";
    let arguments = [AUTHENTICATED.into(), target.relation.oid.into()];
    if !catalog::holds(may_select, &arguments)? {
        return Ok(None);
    }
    let may_become = "SELECT pg_catalog.pg_has_role(current_user, $1, 'MEMBER')";
    if !catalog::holds(may_become, &[AUTHENTICATED.into()])? {
        let detail = "not checked: the caller is not a member of authenticated";
        return Ok(Some(unrepaired(name, detail)));
    }
    Ok(catalog::explain_as(AUTHENTICATED, &target.relation.name)?
        .map(|why| unrepaired(name, format!("fails: {why}"))))
}

/// The call that creates the functions behind the policies again.
fn rows_fix(trees: &[Target]) -> Result<String, Error> {
    let entry = registry::entries()?.into_iter().next();
    Ok(match (entry, trees.first()) {
        (Some(entry), _) => call(&entry.name(), &entry.rules),
        (None, Some(target)) => detected(target),
        (None, None) => String::new(),
    })
}

fn of_functions(fix: &str) -> Result<Vec<Finding>, Error> {
    let mut rows = walk(boxed([RowSchema]), plan::check)?;
    rows.extend(walk(boxed(ROW_FUNCTIONS), plan::check)?);
    rows.retain(|(_, is_right, ..)| !is_right);
    Ok(rows
        .into_iter()
        .map(|(name, is_right, why, _)| (name, is_right, why, Some(fix.to_owned())))
        .collect())
}

fn part(name: &str, members: &[Oid]) -> Result<Vec<Finding>, Error> {
    catalog::rows(include_str!("check.sql"), &[name.into(), members.to_vec().into()], |row| {
        Ok((
            row.get(1)?.unwrap_or_default(),
            row.get(2)?.unwrap_or_default(),
            row.get(3)?.unwrap_or_default(),
            row.get(4)?,
        ))
    })
}

/// Tables that hold tickets, are published or have the column of the tenant, and are not protected. One on
/// which `anon` and `authenticated` have no rights is open to nobody.
fn open(members: &[Oid]) -> Result<Vec<Finding>, Error> {
    let mut rows = vec![];
    for (oid, is_unreachable, why, _) in part("open", members)? {
        let Some(relation) = Relation::with_oid(Oid::from(oid.parse::<u32>().unwrap_or(0)))? else {
            continue;
        };
        let target = Target::of(relation)?;
        let name = format!("table {}", target.relation.name);
        rows.push(if is_unreachable {
            good(name, format!("{why}; anon and authenticated have no rights on it"))
        } else {
            bad(name, format!("open: {why}, and is not protected"), detected(&target))
        });
    }
    rows.sort();
    Ok(rows)
}

/// The call that protects a table, with the columns that are found.
pub fn detected(target: &Target) -> String {
    let request = Request {
        tenant: "tenant_id".to_owned(),
        owners: None,
        assigned: None,
        sensitive: None,
        ticket: None,
        guarded: None,
        readable: Readable::Staff,
    };
    let name = &target.relation.name;
    match Rules::resolve(request, &target.table) {
        Ok(rules) => call(name, &rules),
        Err(_) => {
            let table = pgrx::spi::quote_literal(name);
            format!("SELECT * FROM civic.protect({table}, tenant_column => '…');")
        }
    }
}
