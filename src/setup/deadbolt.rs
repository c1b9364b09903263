//! Whether the firewall stands, as a constant of each plan.
//!
//! DROP EXTENSION … CASCADE takes the firewall with it; the policy "civic deadbolt" does not depend on
//! the extension, and then shuts the buckets. A plan holds the policies as they were when it was made,
//! and the server makes it anew when they change: so whether the firewall is among them is a constant
//! of the plan. A function that says IMMUTABLE is asked when a plan is made and not again. A subquery
//! would scan pg_policy once for each query, and be planned with it.

use super::{ALREADY, DONE, REMOVED, SKIPPED, Step, catalog, files, policy, step};
use crate::catalog::Owner;
use crate::error::Error;

/// What the policy asks, as the server prints it.
macro_rules! stands {
    () => {
        "storage.civic_firewall_stands('storage.objects'::regclass)"
    };
}
pub(super) use stands;

pub const COMPONENT: &str = "function storage.civic_firewall_stands(regclass)";

/// As the server prints it (`pg_get_functiondef`).
///
/// Its text is parsed each time with the rights of whoever asks: he need not have USAGE on `storage`,
/// so the table is an argument. The schema is looked for beside the policy because a query reads the
/// catalog as its transaction's snapshot has it, which may be older than a CASCADE; this look-up is not.
const DEFINITION: &str =
    "CREATE OR REPLACE FUNCTION storage.civic_firewall_stands(objects regclass)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
AS $function$
SELECT pg_catalog.to_regnamespace('civic') IS NOT NULL
   AND EXISTS (SELECT FROM pg_catalog.pg_policy p
               WHERE p.polrelid OPERATOR(pg_catalog.=) objects
                 AND p.polname OPERATOR(pg_catalog.=) 'civic firewall')
$function$
";

/// The function, who owns it, and the table that it is about.
macro_rules! function {
    () => {
        "pg_catalog.pg_proc p
         JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'storage'
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'objects'
         WHERE p.proname = 'civic_firewall_stands'
           AND p.proargtypes[0] = 'pg_catalog.regclass'::pg_catalog.regtype AND p.pronargs = 1"
    };
}

/// Whether it is there, and whether it is this one: what it says, that everybody may ask it, and that
/// it belongs to nobody who could not drop the policies, or the table, as well.
pub fn state() -> Result<policy::State, Error> {
    let found = catalog::texts(
        concat!(
            "SELECT pg_catalog.pg_get_functiondef(p.oid) = $1
                AND pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE')
                AND (pg_catalog.pg_has_role(p.proowner, c.relowner, 'USAGE')
                     OR pg_catalog.pg_has_role(p.proowner, n.nspowner, 'USAGE'))
             FROM ",
            function!()
        ),
        &[DEFINITION.into()],
    )?;
    Ok(match found.first().map(String::as_str) {
        None => policy::State::Missing,
        Some("true") => policy::State::Installed,
        Some(_) => policy::State::Different,
    })
}

/// What the caller lacks to make it, or to drop it.
pub fn missing_privileges(purpose: files::Purpose) -> Result<Vec<String>, Error> {
    let mut missing = catalog::texts(
        concat!(
            "SELECT 'ownership of ' || $1 || pg_catalog.format(' (its owner is %s)',
                                                pg_catalog.pg_get_userbyid(p.proowner))
             FROM ",
            function!(),
            " AND NOT pg_catalog.pg_has_role(current_user, p.proowner, 'USAGE')"
        ),
        &[COMPONENT.into()],
    )?;
    if purpose == files::Purpose::SetUp {
        // It is made by the caller, and given to the owner of the table.
        missing.extend(catalog::texts(
            "SELECT 'CREATE on schema storage'
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'storage'
             JOIN pg_catalog.pg_roles r ON r.rolname = current_user AND NOT r.rolsuper
             WHERE c.relname = 'objects'
               AND NOT (pg_catalog.has_schema_privilege(current_user, n.oid, 'CREATE')
                        AND pg_catalog.has_schema_privilege(c.relowner, n.oid, 'CREATE'))",
            &[],
        )?);
    }
    Ok(missing)
}

/// Makes it where it is missing or another. The policy that asks it has to be made afterwards.
pub fn set_up() -> Result<Step, Error> {
    let state = state()?;
    if state == policy::State::Installed {
        return Ok(step(COMPONENT, ALREADY, "as pg_civic makes it"));
    }
    if state == policy::State::Different {
        on_objects("DROP POLICY IF EXISTS \"civic deadbolt\" ON storage.objects")?;
        drop_function()?;
    }
    on_objects(DEFINITION)?;
    for change in [
        "REVOKE ALL ON FUNCTION storage.civic_firewall_stands(regclass) FROM PUBLIC",
        "GRANT EXECUTE ON FUNCTION storage.civic_firewall_stands(regclass) TO PUBLIC",
        "COMMENT ON FUNCTION storage.civic_firewall_stands(regclass) IS
             'of pg_civic: whether the policy \"civic firewall\" is there; a constant of each plan'",
    ] {
        on_objects(change)?;
    }
    Ok(match state {
        policy::State::Different => step(COMPONENT, DONE, "was another, created anew"),
        _ => step(COMPONENT, DONE, "created"),
    })
}

pub fn tear_down() -> Result<Step, Error> {
    if state()? == policy::State::Missing {
        return Ok(step(COMPONENT, SKIPPED, "there is none"));
    }
    drop_function()?;
    Ok(step(COMPONENT, REMOVED, "dropped"))
}

/// As the owner of the table, who owns the function too unless somebody has given it away. The owner of
/// the schema may drop it as well.
fn drop_function() -> Result<(), Error> {
    let owners = catalog::rows(
        concat!(
            "SELECT CASE WHEN pg_catalog.pg_has_role(c.relowner, n.nspowner, 'USAGE')
                         THEN c.relowner ELSE p.proowner END
             FROM ",
            function!()
        ),
        &[],
        |row| row.get::<pgrx::pg_sys::Oid>(1),
    )?;
    for owner in owners.into_iter().flatten() {
        Owner::new(owner)?.execute("DROP FUNCTION storage.civic_firewall_stands(regclass)", &[])?;
    }
    Ok(())
}

fn on_objects(statement: &str) -> Result<(), Error> {
    policy::as_owner_of("storage", "objects", statement)
}
