//! The trigger on the table of tickets, and EXECUTE on its function.
//!
//! PUBLIC cannot execute the trigger function: the owner of any table could send events that nobody can
//! tell from real ones. `setup()` creates the trigger as the table's owner, so this role needs it.

use std::collections::HashSet;

use pgrx::pg_sys::Oid;
use pgrx::spi::{quote_identifier, quote_literal};

use super::SetupError;
use super::ledger::{self, Change, Privilege};
use super::plan::{
    AS_MADE, Component, Components, DONE, Finding, KEPT, REMOVED, State, Step, bad, boxed, step,
    unneeded,
};
use super::policy::has_role;
use super::privileges::{self, TICKETS, TRIGGER_FUNCTION};
use super::publication::{self, Operations, Published};
use super::relation::{Relation, relation};
use crate::catalog;
use crate::error::Error;
use crate::events::payload::Column;
use crate::pg::role;

/// The name that the application's migration gave its trigger: this one replaces it.
const TRIGGER: &str = "ticket_update_notify";

/// A table whose changes are to be published.
pub struct Table {
    relation: Relation,
    /// Columns of a ticket that it lacks.
    missing: Vec<&'static str>,
}

impl Table {
    /// Errors: 42P01 for an OID of nothing, 42809 for what is not a table, 42703 for a table without the
    /// municipality's column.
    pub fn find(oid: Oid) -> Result<Table, Error> {
        let Some(relation) = Relation::with_oid(oid)? else {
            return Err(SetupError::NoRelation { oid: oid.to_u32() }.into());
        };
        relation.check_is_table()?;
        let columns = catalog::texts(
            "SELECT attname FROM pg_catalog.pg_attribute
             WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
            &[oid.into()],
        )?;
        let columns: HashSet<_> = columns.iter().map(String::as_str).collect();
        let mut missing = Column::ALL.map(Column::name).to_vec();
        missing.retain(|column| !columns.contains(column));
        if missing.contains(&Column::TenantId.name()) {
            return Err(SetupError::MissingColumns {
                relation: relation.name,
                missing: vec![Column::TenantId.name().to_owned()],
                known: Column::ALL.map(Column::name).join(", "),
            }
            .into());
        }
        Ok(Table { relation, missing })
    }

    pub fn missing_privileges(&self) -> Result<Vec<String>, Error> {
        let table = &self.relation;
        let mut missing = privileges::missing(table, TICKETS.setup, TICKETS.uses_rows)?;
        // The owner needs EXECUTE, and a caller who can grant it has it.
        missing.extend(catalog::texts(
            "SELECT 'EXECUTE on function ' || $3
             WHERE NOT pg_catalog.has_function_privilege(
                 CASE WHEN $2 THEN $1 ELSE (SELECT oid FROM pg_catalog.pg_roles
                                            WHERE rolname = current_user) END, $3, 'EXECUTE')",
            &[
                table.owner.into(),
                (role::has_rights_of(table.owner) && !can_grant()?).into(),
                TRIGGER_FUNCTION.into(),
            ],
        )?);
        for Partition { table, has_trigger, takes_triggers } in partitions(table)? {
            if has_trigger && !role::has_rights_of(table.owner) {
                let (name, owner) = (table.name, table.owner_name);
                missing.push(format!("ownership of table {name} (its owner is {owner})"));
            } else if !takes_triggers {
                missing.push(format!("TRIGGER on table {}", table.name));
            }
        }
        missing.extend(Published::find(table)?.iter().flat_map(Published::missing_privileges));
        Ok(missing)
    }

    /// In the order of creation.
    pub fn components(&self) -> Result<Components, Error> {
        let table = &self.relation;
        let mut components = boxed(triggers(Some(table))?);
        if components.is_empty() {
            components = boxed([Trigger {
                name: TRIGGER.to_owned(),
                table: table.clone(),
                exists: false,
                is_enabled: false,
                is_inherited: false,
                is_as_made: false,
            }]);
        }
        if !self.missing.is_empty() {
            let missing = self.missing.join(", ");
            let detail = format!("null in every event, the table lacks them: {missing}");
            components.push(unneeded(&format!("columns of {}", table.name), detail));
        }
        match Published::find(table)? {
            Some(published) => {
                components.extend(boxed([published]));
                components.extend(boxed(Operations::find()?));
            }
            // Without Realtime a publication is not expected.
            None if Relation::named("realtime", "messages")?.is_some() => components.push(
                unneeded(&publication::name(&table.name), "there is no publication of this name"),
            ),
            None => {}
        }
        Ok(components)
    }
}

/// Of every table with the trigger, for `teardown()` and `check()`.
pub fn components() -> Result<Components, Error> {
    let mut components = vec![];
    for trigger in triggers(None)? {
        let published = Published::find(&trigger.table)?.filter(|_| !trigger.is_inherited);
        components.extend(boxed([trigger]));
        components.extend(boxed(published));
    }
    if !components.is_empty() {
        components.extend(boxed(Operations::find()?));
    }
    Ok(components)
}

/// What the caller lacks to remove every trigger.
pub fn missing_to_tear_down() -> Result<Vec<String>, Error> {
    let mut missing = vec![];
    for trigger in triggers(None)?.iter().filter(|trigger| !trigger.is_inherited) {
        missing.extend(privileges::missing(&trigger.table, TICKETS.teardown, TICKETS.uses_rows)?);
    }
    Ok(missing)
}

/// A partition that `setup()` must deal with: the owner of the whole table cannot create a trigger there,
/// or it has a trigger of the name, which is not the whole table's.
struct Partition {
    table: Relation,
    has_trigger: bool,
    takes_triggers: bool,
}

fn partitions(table: &Relation) -> Result<Vec<Partition>, Error> {
    catalog::rows(
        concat!(
            "SELECT ",
            relation!(),
            ", t.has_trigger, t.takes_triggers
             FROM pg_catalog.pg_partition_tree($1) p
             JOIN pg_catalog.pg_class c ON c.oid = p.relid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             CROSS JOIN LATERAL (SELECT
                 EXISTS (SELECT FROM pg_catalog.pg_trigger
                         WHERE tgrelid = c.oid AND tgname = $2 AND tgparentid = 0),
                 pg_catalog.has_table_privilege($3, c.oid, 'TRIGGER')) t (has_trigger, takes_triggers)
             WHERE c.oid <> $1 AND (t.has_trigger OR NOT t.takes_triggers)
             ORDER BY p.level, 2"
        ),
        &[table.oid.into(), TRIGGER.into(), table.owner.into()],
        |row| {
            Ok(Partition {
                table: Relation::read(row)?,
                has_trigger: row.get(Relation::COLUMNS + 1)?.unwrap_or_default(),
                takes_triggers: row.get(Relation::COLUMNS + 2)?.unwrap_or_default(),
            })
        },
    )
}

/// A trigger that calls the trigger function, or is to.
pub struct Trigger {
    name: String,
    table: Relation,
    exists: bool,
    is_enabled: bool,
    /// Whether a partition has it from its table.
    is_inherited: bool,
    /// Whether it is as `setup()` creates it. True for one of another name, which its creator answers for.
    is_as_made: bool,
}

/// Whether a trigger fires on changes that are made here: those of sessions, or, where the table is that of a
/// subscription, those that arrive.
macro_rules! fires {
    ($trigger:literal) => {
        concat!(
            "(",
            $trigger,
            ".tgenabled IN ('O', 'A') OR ",
            $trigger,
            ".tgenabled = 'R' AND EXISTS (
                 SELECT FROM pg_catalog.pg_subscription_rel s
                 WHERE s.srrelid = ",
            $trigger,
            ".tgrelid
                    OR s.srrelid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(",
            $trigger,
            ".tgrelid))))"
        )
    };
}

/// Which tables carry the trigger: every trigger in the database that calls the trigger function; those
/// that a partition has from its table only if they do not fire. For one table: the trigger of
/// [`TRIGGER`]'s name, whatever it calls, enabled if it fires on every partition.
///
/// As created means: AFTER (no bit) INSERT (4) OR UPDATE (16) OR DELETE (8) FOR EACH ROW (1), without a column
/// list, a condition or an argument. ENABLE ALWAYS is the owner's choice.
fn triggers(table: Option<&Relation>) -> Result<Vec<Trigger>, Error> {
    catalog::rows(
        concat!(
            "SELECT ",
            relation!(),
            ", t.tgname::pg_catalog.text,
                ",
            fires!("t"),
            " AND NOT EXISTS (
                    SELECT FROM pg_catalog.pg_partition_tree($3) p
                    JOIN pg_catalog.pg_trigger o ON o.tgrelid = p.relid AND o.tgname = t.tgname
                    WHERE NOT ",
            fires!("o"),
            "),
                t.tgparentid <> 0,
                t.tgfoid = $1::pg_catalog.regprocedure
                AND (t.tgname <> $2
                     OR t.tgtype = 29 AND t.tgqual IS NULL AND t.tgattr::pg_catalog.text = ''
                        AND t.tgnargs = 0 AND t.tgconstraint = 0)
         FROM pg_catalog.pg_trigger t
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE CASE WHEN $3 IS NULL
               THEN t.tgfoid = $1::pg_catalog.regprocedure
                    AND (t.tgparentid = 0 AND NOT t.tgisinternal
                         OR t.tgparentid <> 0 AND NOT ",
            fires!("t"),
            ")
               ELSE t.tgrelid = $3 AND t.tgname = $2
                    AND (NOT t.tgisinternal OR t.tgparentid <> 0) END
         ORDER BY 2, t.tgname"
        ),
        &[TRIGGER_FUNCTION.into(), TRIGGER.into(), table.map(|table| table.oid).into()],
        |row| {
            const FIRST: usize = Relation::COLUMNS + 1;
            Ok(Trigger {
                table: Relation::read(row)?,
                name: row.get(FIRST)?.unwrap_or_default(),
                exists: true,
                is_enabled: row.get(FIRST + 1)?.unwrap_or_default(),
                is_inherited: row.get(FIRST + 2)?.unwrap_or_default(),
                is_as_made: row.get(FIRST + 3)?.unwrap_or_default(),
            })
        },
    )
}

fn drop_trigger(table: &Relation, name: &str) -> Result<(), Error> {
    table.execute(&format!("DROP TRIGGER {} ON {}", quote_identifier(name), table.name))
}

fn trigger_name(trigger: &str, table: &str) -> String {
    format!("trigger {trigger} on {table}")
}

impl Component for Trigger {
    fn name(&self) -> String {
        trigger_name(&self.name, &self.table.name)
    }

    fn state(&self) -> Result<State, Error> {
        Ok(match (self.exists, self.is_enabled, self.is_as_made) {
            (false, ..) => State::Missing("missing".to_owned()),
            (_, true, true) => State::Installed("enabled".to_owned()),
            (_, true, false) => State::Different(format!("not {AS_MADE}")),
            (_, false, _) => State::Different("disabled: changes are not published".to_owned()),
        })
    }

    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        if self.exists {
            drop_trigger(&self.table, &self.name)?;
        }
        let mut steps = vec![];
        steps.extend(grant_to(self.table.owner)?);
        for Partition { table, has_trigger, .. } in partitions(&self.table)? {
            if has_trigger {
                drop_trigger(&table, &self.name)?;
                let detail = "the partition gets that of the whole table";
                steps.push(step(trigger_name(&self.name, &table.name), REMOVED, detail));
            }
        }
        self.table.execute(&format!(
            "CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {}
                 FOR EACH ROW EXECUTE FUNCTION {TRIGGER_FUNCTION}",
            self.name, self.table.name
        ))?;
        steps.extend(self.made(was));
        Ok(steps)
    }

    fn remove(&self) -> Result<Vec<Step>, Error> {
        if self.is_inherited {
            return Ok(vec![]);
        }
        drop_trigger(&self.table, &self.name)?;
        Ok(self.dropped())
    }

    fn fix(&self, _state: &State) -> String {
        if self.is_enabled {
            return format!("SELECT * FROM civic.setup({});", quote_literal(&self.table.name));
        }
        let name = quote_identifier(&self.name);
        format!("ALTER TABLE {} ENABLE TRIGGER {name};", self.table.name)
    }
}

/// Triggers of the application's migrations under another name than [`TRIGGER`].
pub fn migrated() -> Result<Vec<Finding>, Error> {
    let fixes = catalog::texts(
        "SELECT pg_catalog.format('DROP TRIGGER %I ON %s;', t.tgname, t.tgrelid::pg_catalog.regclass)
         FROM pg_catalog.pg_trigger t
         JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid AND p.proname = 'notify_ticket_update'
         JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'public'
         WHERE NOT t.tgisinternal AND t.tgparentid = 0",
        &[],
    )?;
    let detail =
        "of the application's migrations: publishes sensitive tickets, and can fail a write";
    let finding = |fix| bad("trigger of public.notify_ticket_update()", detail, fix);
    Ok(fixes.into_iter().map(finding).collect())
}

/// Whether the caller could grant EXECUTE on the trigger function without pg_civic.
fn can_grant() -> Result<bool, Error> {
    catalog::holds(
        "SELECT pg_catalog.pg_has_role(current_user, p.proowner, 'USAGE')
             OR pg_catalog.has_function_privilege(p.oid, 'EXECUTE WITH GRANT OPTION')
         FROM pg_catalog.pg_proc p WHERE p.oid = $1::pg_catalog.regprocedure",
        &[TRIGGER_FUNCTION.into()],
    )
}

fn execute_for(role: &str) -> String {
    format!("EXECUTE on function {TRIGGER_FUNCTION} for {role}")
}

/// Grants it to the owner of a table of tickets, if that role lacks it and the caller can grant it.
fn grant_to(owner: Oid) -> Result<Option<Step>, Error> {
    let lacks = catalog::texts(
        "SELECT r.rolname FROM pg_catalog.pg_roles r
         WHERE r.oid = $1 AND NOT pg_catalog.has_function_privilege(r.oid, $2, 'EXECUTE')",
        &[owner.into(), TRIGGER_FUNCTION.into()],
    )?;
    let Some(role) = lacks.into_iter().next() else { return Ok(None) };
    if !can_grant()? {
        return Ok(None);
    }
    let name = quote_identifier(&role);
    catalog::execute_as_superuser(&format!(
        "GRANT EXECUTE ON FUNCTION {TRIGGER_FUNCTION} TO {name}"
    ))?;
    let granted = Privilege {
        schema: "civic".to_owned(),
        object: "notify_ticket_update()".to_owned(),
        column: String::new(),
        privilege: "EXECUTE".to_owned(),
        grantee: role.clone(),
        grantor: String::new(),
        is_grantable: false,
    };
    ledger::record(Change::Granted, &granted)?;
    let detail = "granted: the trigger is created as the owner of the table";
    Ok(Some(step(execute_for(&role), DONE, detail)))
}

/// Revokes what `setup()` has granted. To be called once no table has the trigger.
pub fn revoke_grants() -> Result<Vec<Step>, Error> {
    let mut steps = vec![];
    for granted in ledger::recorded(Change::Granted)? {
        let role = &granted.grantee;
        let exists = has_role(role)?;
        let name = quote_identifier(role);
        let revoke = format!("REVOKE EXECUTE ON FUNCTION {TRIGGER_FUNCTION} FROM {name}");
        if exists && !can_grant()? {
            steps.push(step(execute_for(role), KEPT, format!("as a superuser: {revoke};")));
            continue;
        }
        if exists {
            catalog::execute_as_superuser(&revoke)?;
        }
        ledger::forget(&granted)?;
        steps.push(step(execute_for(role), REMOVED, "revoked"));
    }
    Ok(steps)
}
