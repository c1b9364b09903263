//! Ways around the policies, and code of others that runs with more rights than its owner has.

use pgrx::datum::DatumWithOid;

use super::super::plan::{Finding, bad};
use super::super::privileges::guarded;
use super::super::rights;
use crate::catalog;
use crate::error::Error;

/// An event trigger runs at every CREATE, ALTER, GRANT and DROP of a superuser. First of all: the
/// other fixes are such statements.
pub fn event_triggers() -> Result<Vec<Finding>, Error> {
    let finding = |trigger: catalog::EventTrigger| {
        let detail = format!(
            "runs function {} of role {} with the rights of each role that changes the catalog, a \
             superuser too; disable it before any other statement",
            trigger.function, trigger.owner
        );
        let fix = format!("ALTER EVENT TRIGGER {} DISABLE;", trigger.name);
        bad(format!("event trigger {}", trigger.name), detail, fix)
    };
    Ok(catalog::event_triggers_of_others()?.into_iter().map(finding).collect())
}

/// Privileges that no policy covers, which `anon` or `authenticated` has as a member of another role.
pub fn memberships(schema: &str) -> Result<Vec<Finding>, Error> {
    let finding = |(member, fix)| {
        let detail = format!("no policy covers what {member} may do");
        bad(rights::name(schema), detail, fix)
    };
    Ok(rights::by_membership(schema)?.into_iter().map(finding).collect())
}

/// One part of exposure.sql, by its name there.
pub fn part(name: &str) -> Result<Vec<Finding>, Error> {
    rows(&[name.into(), guarded().into(), true.into()])
}

/// [`part`] for tables of the application, by schema and name.
pub fn part_of(name: &str, tables: Vec<String>) -> Result<Vec<Finding>, Error> {
    rows(&[name.into(), tables.into(), false.into()])
}

fn rows(arguments: &[DatumWithOid<'_>]) -> Result<Vec<Finding>, Error> {
    catalog::rows(include_str!("exposure.sql"), arguments, |row| {
        Ok((
            row.get(1)?.unwrap_or_default(),
            row.get(2)?.unwrap_or_default(),
            row.get(3)?.unwrap_or_default(),
            row.get(4)?,
        ))
    })
}
