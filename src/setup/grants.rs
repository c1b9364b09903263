//! EXECUTE on the trigger function for the owners of tickets tables.
//!
//! PUBLIC does not have it: the owner of any table could send events that nobody can tell from real
//! ones. `setup` makes the trigger as the table's owner, so this role needs it.

use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;

use super::ledger::{self, Change, Privilege};
use super::{DONE, KEPT, REMOVED, Step, catalog, step};
use crate::error::Error;

const FUNCTION: &str = "civic.notify_ticket_update()";

/// Whether the caller could grant it without pg_civic.
pub fn can_grant() -> Result<bool, Error> {
    catalog::holds(
        "SELECT pg_catalog.pg_has_role(current_user, p.proowner, 'USAGE')
             OR pg_catalog.has_function_privilege(p.oid, 'EXECUTE WITH GRANT OPTION')
         FROM pg_catalog.pg_proc p WHERE p.oid = $1::pg_catalog.regprocedure",
        &[FUNCTION.into()],
    )
}

fn component(role: &str) -> String {
    format!("EXECUTE on function {FUNCTION} for {role}")
}

/// Grants it to the owner of a table of tickets, where that role lacks it and the caller can grant it.
pub fn grant_to(owner: Oid) -> Result<Option<Step>, Error> {
    let lacks = catalog::texts(
        "SELECT r.rolname FROM pg_catalog.pg_roles r
         WHERE r.oid = $1 AND NOT pg_catalog.has_function_privilege(r.oid, $2, 'EXECUTE')",
        &[owner.into(), FUNCTION.into()],
    )?;
    let Some(role) = lacks.into_iter().next() else { return Ok(None) };
    if !can_grant()? {
        return Ok(None);
    }
    let granted = Privilege {
        schema: "civic".to_owned(),
        object: "notify_ticket_update()".to_owned(),
        column: String::new(),
        privilege: "EXECUTE".to_owned(),
        grantee: role.clone(),
        grantor: String::new(),
        is_grantable: false,
    };
    catalog::execute_as_superuser(&format!(
        "GRANT EXECUTE ON FUNCTION {FUNCTION} TO {}",
        quote_identifier(&role)
    ))?;
    ledger::record(Change::Granted, &granted)?;
    let detail = "granted: the trigger is made as the owner of the table";
    Ok(Some(step(component(&role), DONE, detail)))
}

/// Revokes what `setup` has granted, once the role owns no table with the trigger any more.
pub fn take_back() -> Result<Vec<Step>, Error> {
    let mut steps = vec![];
    for granted in ledger::recorded(Change::Granted)? {
        let role = &granted.grantee;
        let is_used = catalog::holds(
            "SELECT EXISTS (
                 SELECT FROM pg_catalog.pg_trigger t
                 JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
                 JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
                 WHERE t.tgfoid = $1::pg_catalog.regprocedure AND r.rolname = $2)",
            &[FUNCTION.into(), role.as_str().into()],
        )?;
        if is_used {
            continue;
        }
        let exists = super::policy::has_role(role)?;
        let revoke =
            format!("REVOKE EXECUTE ON FUNCTION {FUNCTION} FROM {}", quote_identifier(role));
        if exists && !can_grant()? {
            let detail = format!("as a superuser: {revoke};");
            steps.push(step(component(role), KEPT, detail));
            continue;
        }
        if exists {
            catalog::execute_as_superuser(&revoke)?;
        }
        ledger::forget(&granted)?;
        steps.push(step(component(role), REMOVED, "revoked"));
    }
    Ok(steps)
}
