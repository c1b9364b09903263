//! What `protect()` reports besides its steps: what the owner should know, and indexes to create.

use pgrx::spi::quote_identifier;

use super::rules::Rules;
use super::tables::Target;
use crate::catalog;
use crate::error::Error;
use crate::setup::plan::{SKIPPED, Step, step};

pub fn of(target: &Target, rules: &Rules) -> Result<Vec<Step>, Error> {
    let name = &target.relation.name;
    let mut rows = vec![];
    let owner = if target.relation.forces_row_security {
        format!("row security is forced: it holds the owner {} too", target.relation.owner_name)
    } else {
        format!("the owner {} and roles with BYPASSRLS pass", target.relation.owner_name)
    };
    rows.push(step(format!("owner of {name}"), SKIPPED, owner));
    for policy in restrictive_of_others(target)? {
        let detail = "of others, restrictive: rows must pass it as well";
        rows.push(step(format!("policy \"{policy}\" on {name}"), SKIPPED, detail));
    }
    for statement in missing_indexes(target, rules)? {
        rows.push(step(format!("index on {name}"), SKIPPED, format!("missing: {statement}")));
    }
    Ok(rows)
}

fn restrictive_of_others(target: &Target) -> Result<Vec<String>, Error> {
    let own: Vec<_> = super::plan::NAMES.iter().map(|name| name.to_string()).collect();
    catalog::texts(
        "SELECT polname FROM pg_catalog.pg_policy
         WHERE polrelid = $1 AND NOT polpermissive AND polname <> ALL ($2) ORDER BY polname",
        &[target.relation.oid.into(), own.into()],
    )
}

/// The statements that create the indexes which the policies use. The planner combines the indexes of the
/// columns that name a user, so each of them needs one.
pub fn missing_indexes(target: &Target, rules: &Rules) -> Result<Vec<String>, Error> {
    let mut columns = vec![rules.tenant.clone()];
    if rules.readable == super::rules::Readable::Staff {
        columns.extend(rules.owners.iter().cloned());
        columns.extend(rules.assigned.clone());
    }
    columns.extend(rules.ticket.clone());
    let indexed = catalog::texts(
        "SELECT a.attname
         FROM pg_catalog.pg_index i
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
         WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL",
        &[target.relation.oid.into()],
    )?;
    columns.retain(|column| !indexed.contains(column));
    let mut seen = std::collections::HashSet::new();
    columns.retain(|column| seen.insert(column.clone()));
    let order = target.table.column("created_at").map(|column| column.quoted.as_str());
    let statement = |column: &String| {
        let also = order.filter(|_| *column == rules.tenant);
        let also = also.map(|order| format!(", {order}")).unwrap_or_default();
        // A partitioned table's index cannot be created concurrently.
        let how = if target.relation.kind == "p" { "" } else { " CONCURRENTLY" };
        format!(
            "CREATE INDEX{how} ON {} ({}{also});",
            target.relation.name,
            quote_identifier(column)
        )
    };
    Ok(columns.iter().map(statement).collect())
}
