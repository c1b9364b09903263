//! The trigger on the table of tickets.

use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;

use super::policy::State;
use super::{ALREADY, DONE, REMOVED, SKIPPED, Step, catalog, grants, publication, step};
use crate::catalog::Owner;
use crate::error::Error;
use crate::events::payload::Column;
use crate::setup::SetupError;

/// The name that the application's migration gave its trigger: ours takes its place.
const TRIGGER: &str = "ticket_update_notify";

/// Whether a trigger `t` is one that setup makes, and fires: AFTER (no bit) INSERT (4) OR UPDATE
/// (16) FOR EACH ROW (1), with no column list, condition or argument. ENABLE ALWAYS is the owner's
/// choice.
macro_rules! is_as_made {
    () => {
        "(t.tgfoid = 'civic.notify_ticket_update()'::pg_catalog.regprocedure
          AND t.tgtype = 21 AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL
          AND t.tgattr::pg_catalog.text = '' AND t.tgnargs = 0 AND t.tgconstraint = 0)"
    };
}

/// A table whose tickets are to be heard.
pub struct Table {
    pub oid: Oid,
    /// Qualified and quoted.
    pub name: String,
    owner: Oid,
    /// The owner's name.
    owner_name: String,
    missing: Vec<&'static str>,
}

impl Table {
    /// Errors: 42809 for what is no table, 42703 for one without the municipality's column.
    pub fn find(oid: Oid) -> Result<Table, Error> {
        let found = catalog::rows(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind::pg_catalog.text,
                    pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
                    ARRAY(SELECT attname::pg_catalog.text FROM pg_catalog.pg_attribute
                          WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
                    c.relowner
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = $1",
            &[oid.into()],
            |row| {
                Ok((
                    row.get::<String>(1)?.unwrap_or_default(),
                    row.get::<String>(2)?.unwrap_or_default(),
                    row.get::<String>(3)?.unwrap_or_default(),
                    row.get::<Vec<String>>(4)?.unwrap_or_default(),
                    row.get::<Oid>(5)?.unwrap_or(Oid::INVALID),
                ))
            },
        )?;
        let Some((name, kind, owner_name, columns, owner)) = found.into_iter().next() else {
            return Err(SetupError::NoRelation { oid: oid.to_u32() }.into());
        };
        let kind = match kind.as_str() {
            "r" | "p" => None,
            "v" => Some("a view"),
            "m" => Some("a materialized view"),
            "f" => Some("a foreign table"),
            "S" => Some("a sequence"),
            "i" | "I" => Some("an index"),
            "c" => Some("a composite type"),
            _ => Some("of another kind"),
        };
        if let Some(kind) = kind {
            return Err(SetupError::NotATable { relation: name, kind }.into());
        }
        let has = |column: &str| columns.iter().any(|known| known == column);
        let missing: Vec<_> =
            Column::ALL.map(Column::name).into_iter().filter(|column| !has(column)).collect();
        if missing.contains(&Column::TenantId.name()) {
            let known = Column::ALL.map(Column::name).join(", ");
            let missing = vec![Column::TenantId.name().to_owned()];
            return Err(SetupError::MissingColumns { relation: name, missing, known }.into());
        }
        Ok(Table { oid, name, owner, owner_name, missing })
    }

    /// Those of its partitions that setup has something to do with: where the caller may not make
    /// the trigger, and where one of its name stands that is not the table's own.
    fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let partitions = catalog::rows(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
                    pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
                    pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'),
                    pg_catalog.has_table_privilege($3, c.oid, 'TRIGGER'),
                    EXISTS (SELECT FROM pg_catalog.pg_trigger
                            WHERE tgrelid = c.oid AND tgname = $2 AND tgparentid = 0),
                    c.relowner
             FROM pg_catalog.pg_partition_tree($1) p
             JOIN pg_catalog.pg_class c ON c.oid = p.relid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid <> $1
             ORDER BY p.level, 1",
            &[self.oid.into(), TRIGGER.into(), self.owner.into()],
            |row| {
                Ok(Partition {
                    name: row.get(1)?.unwrap_or_default(),
                    owner: row.get(2)?.unwrap_or_default(),
                    is_owned: row.get(3)?.unwrap_or_default(),
                    takes_triggers: row.get(4)?.unwrap_or_default(),
                    has_own_trigger: row.get(5)?.unwrap_or_default(),
                    owner_oid: row.get(6)?.unwrap_or(Oid::INVALID),
                })
            },
        )?;
        let matters =
            |partition: &Partition| !partition.takes_triggers || partition.has_own_trigger;
        Ok(partitions.into_iter().filter(matters).collect())
    }

    /// The rights of the owner, and what the owner itself lacks. Of EXECUTE on the trigger function,
    /// which setup can give to the owner, what the caller lacks.
    pub fn missing_privileges(&self) -> Result<Vec<String>, Error> {
        let mut missing = catalog::texts(
            "SELECT p.lacks
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'))
                        o (is_owned)
             CROSS JOIN LATERAL (VALUES
                 (1, o.is_owned,
                  pg_catalog.format('ownership of table %s (its owner is %s)', $2, $3)),
                 (2, pg_catalog.has_schema_privilege(c.relowner, n.oid, 'USAGE'),
                  pg_catalog.format('USAGE on schema %I', n.nspname)),
                 (3, pg_catalog.has_table_privilege(c.relowner, c.oid, 'TRIGGER'),
                  pg_catalog.format('TRIGGER on table %s', $2)),
                 (4, pg_catalog.has_function_privilege(
                         CASE WHEN o.is_owned AND NOT $4 THEN c.relowner
                              ELSE (SELECT r.oid FROM pg_catalog.pg_roles r
                                    WHERE r.rolname = current_user) END,
                         'civic.notify_ticket_update()', 'EXECUTE'),
                  'EXECUTE on function civic.notify_ticket_update()')
             ) p (place, has, lacks)
             WHERE c.oid = $1 AND NOT p.has
             ORDER BY p.place",
            &[
                self.oid.into(),
                self.name.as_str().into(),
                self.owner_name.as_str().into(),
                grants::can_grant()?.into(),
            ],
        )?;
        for Partition { name, owner, is_owned, takes_triggers, has_own_trigger, .. } in
            self.partitions()?
        {
            if has_own_trigger && !is_owned {
                missing.push(format!("ownership of table {name} (its owner is {owner})"));
            } else if !takes_triggers {
                missing.push(format!("TRIGGER on table {name}"));
            }
        }
        missing.extend(publication::missing_privileges(self)?);
        Ok(missing)
    }

    /// Whether there is a trigger of the name, and whether it is as setup makes it, on every
    /// partition too.
    fn trigger(&self) -> Result<State, Error> {
        let found = catalog::texts(
            concat!(
                "SELECT ",
                is_as_made!(),
                " AND NOT EXISTS (
                      SELECT FROM pg_catalog.pg_partition_tree(t.tgrelid) p
                      JOIN pg_catalog.pg_trigger o ON o.tgrelid = p.relid AND o.tgname = t.tgname
                      WHERE o.tgenabled NOT IN ('O', 'A'))
                 FROM pg_catalog.pg_trigger t
                 WHERE t.tgrelid = $1 AND t.tgname = $2
                   AND (NOT t.tgisinternal OR t.tgparentid <> 0)"
            ),
            &[self.oid.into(), TRIGGER.into()],
        )?;
        Ok(match found.first().map(String::as_str) {
            None => State::Missing,
            Some("true") => State::Installed,
            Some(_) => State::Different,
        })
    }

    pub fn set_up(&self) -> Result<Vec<Step>, Error> {
        let component = format!("trigger {TRIGGER} on {}", self.name);
        let state = self.trigger()?;
        let mut steps = vec![];
        let owner = Owner::new(self.owner)?;
        if state == State::Different {
            drop_trigger(owner, TRIGGER, &self.name)?;
        }
        if state != State::Installed {
            steps.extend(grants::grant_to(self.owner)?);
            for partition in self.partitions()? {
                if partition.has_own_trigger {
                    let owner = Owner::new(partition.owner_oid)?;
                    drop_trigger(owner, TRIGGER, &partition.name)?;
                    let component = format!("trigger {TRIGGER} on {}", partition.name);
                    let detail = "the partition gets that of the whole table";
                    steps.push(step(component, REMOVED, detail));
                }
            }
            owner.execute(
                &format!(
                    "CREATE TRIGGER {TRIGGER} AFTER INSERT OR UPDATE ON {} FOR EACH ROW
                     EXECUTE FUNCTION civic.notify_ticket_update()",
                    self.name
                ),
                &[],
            )?;
        }
        steps.push(match state {
            State::Missing => step(component, DONE, "created"),
            State::Installed => step(component, ALREADY, "as pg_civic makes it"),
            State::Different => step(component, DONE, "took the place of another of this name"),
        });
        if !self.missing.is_empty() {
            let detail =
                format!("null in every event, the table lacks them: {}", self.missing.join(", "));
            steps.push(step(format!("columns of {}", self.name), SKIPPED, detail));
        }
        Ok(steps)
    }
}

struct Partition {
    /// Qualified and quoted.
    name: String,
    owner: String,
    owner_oid: Oid,
    /// Whether the caller has the rights of its owner.
    is_owned: bool,
    /// Whether the owner of the whole table may make a trigger on it.
    takes_triggers: bool,
    /// Of the name of ours.
    has_own_trigger: bool,
}

fn drop_trigger(owner: Owner, name: &str, table: &str) -> Result<(), Error> {
    owner.execute(&format!("DROP TRIGGER {} ON {table}", quote_identifier(name)), &[])
}

/// Every trigger in the database that calls the trigger function, those that a partition has from
/// its table only where they do not fire.
pub fn triggers() -> Result<Vec<InstalledTrigger>, Error> {
    catalog::rows(
        concat!(
            "SELECT t.tgname::pg_catalog.text, pg_catalog.format('%I.%I', n.nspname, c.relname),
                    pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
                    pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'),
                    t.tgenabled IN ('O', 'A'), t.tgparentid <> 0, c.oid, t.tgname <> $1 OR ",
            is_as_made!(),
            ", c.relowner
             FROM pg_catalog.pg_trigger t
             JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE t.tgfoid = 'civic.notify_ticket_update()'::pg_catalog.regprocedure
               AND (t.tgparentid = 0 AND NOT t.tgisinternal
                    OR t.tgparentid <> 0 AND t.tgenabled NOT IN ('O', 'A'))
             ORDER BY 2, 1"
        ),
        &[TRIGGER.into()],
        |row| {
            Ok(InstalledTrigger {
                name: row.get(1)?.unwrap_or_default(),
                table: row.get(2)?.unwrap_or_default(),
                owner: row.get(3)?.unwrap_or_default(),
                is_owned: row.get(4)?.unwrap_or_default(),
                is_enabled: row.get(5)?.unwrap_or_default(),
                is_inherited: row.get(6)?.unwrap_or_default(),
                oid: row.get(7)?.unwrap_or(Oid::INVALID),
                is_as_made: row.get(8)?.unwrap_or_default(),
                owner_oid: row.get(9)?.unwrap_or(Oid::INVALID),
            })
        },
    )
}

pub struct InstalledTrigger {
    pub name: String,
    /// The table's.
    pub oid: Oid,
    /// Qualified and quoted.
    pub table: String,
    pub owner: String,
    owner_oid: Oid,
    /// Whether the caller has the rights of the table's owner.
    pub is_owned: bool,
    pub is_enabled: bool,
    /// Whether a partition has it from its table.
    pub is_inherited: bool,
    /// Whether it is as setup makes it. True for one under another name: whoever made it knows.
    pub is_as_made: bool,
}

pub fn missing_privileges_to_remove() -> Result<Vec<String>, Error> {
    let is_foreign = |trigger: &InstalledTrigger| !trigger.is_owned && !trigger.is_inherited;
    let foreign = triggers()?.into_iter().filter(is_foreign);
    Ok(foreign
        .map(|trigger| {
            format!("ownership of table {} (its owner is {})", trigger.table, trigger.owner)
        })
        .collect())
}

pub fn tear_down() -> Result<Vec<Step>, Error> {
    let mut triggers = triggers()?;
    triggers.retain(|trigger| !trigger.is_inherited);
    if triggers.is_empty() {
        let mut steps = vec![step("trigger", SKIPPED, "there is none")];
        steps.extend(grants::take_back()?);
        return Ok(steps);
    }
    let remove = |trigger: InstalledTrigger| {
        let InstalledTrigger { name, table, owner_oid, .. } = trigger;
        drop_trigger(Owner::new(owner_oid)?, &name, &table)?;
        Ok(step(format!("trigger {name} on {table}"), REMOVED, "dropped"))
    };
    let mut steps: Vec<_> = triggers.into_iter().map(remove).collect::<Result<_, Error>>()?;
    steps.extend(grants::take_back()?);
    Ok(steps)
}
