//! The trigger on the table of tickets.

use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;

use super::{ALREADY, DONE, REMOVED, SKIPPED, Step, catalog, step};
use crate::error::Error;
use crate::events::payload::Column;

/// The name that the application's migration gave its trigger: ours takes its place.
const TRIGGER: &str = "ticket_update_notify";

/// A table whose tickets are to be heard.
pub struct Table {
    oid: Oid,
    /// Qualified and quoted.
    name: String,
    owner: String,
    missing: Vec<&'static str>,
}

impl Table {
    /// Errors: 42809 for what is no table, 42703 for one without the municipality's column.
    pub fn find(oid: Oid) -> Result<Table, Error> {
        let found = catalog::rows(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind::pg_catalog.text,
                    pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
                    ARRAY(SELECT attname::pg_catalog.text FROM pg_catalog.pg_attribute
                          WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
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
                ))
            },
        )?;
        let (name, kind, owner, columns) = found.into_iter().next().unwrap_or_default();
        let kind = match kind.as_str() {
            "r" | "p" => None,
            "v" => Some("a view"),
            "m" => Some("a materialized view"),
            "f" => Some("a foreign table"),
            "S" => Some("a sequence"),
            "i" | "I" => Some("an index"),
            _ => Some("of another kind"),
        };
        if let Some(kind) = kind {
            return Err(Error::NotATable { relation: name, kind });
        }
        let has = |column: &str| columns.iter().any(|known| known == column);
        let missing: Vec<_> =
            Column::ALL.map(Column::name).into_iter().filter(|column| !has(column)).collect();
        if missing.contains(&Column::TenantId.name()) {
            let known = Column::ALL.map(Column::name).join(", ");
            let missing = vec![Column::TenantId.name().to_owned()];
            return Err(Error::MissingColumns { relation: name, missing, known });
        }
        Ok(Table { oid, name, owner, missing })
    }

    pub fn missing_privileges(&self) -> Result<Vec<String>, Error> {
        let mut missing = vec![];
        let owns = "SELECT pg_catalog.pg_has_role(current_user, relowner, 'USAGE')
                    FROM pg_catalog.pg_class WHERE oid = $1";
        if !catalog::holds(owns, &[self.oid.into()])? {
            missing.push(format!("ownership of table {} (its owner is {})", self.name, self.owner));
        }
        let may_call = "SELECT pg_catalog.has_function_privilege(
                            'civic.notify_ticket_update()', 'EXECUTE')";
        if !catalog::holds(may_call, &[])? {
            missing.push("EXECUTE on function civic.notify_ticket_update()".to_owned());
        }
        Ok(missing)
    }

    /// What there is under the trigger's name, as text to compare.
    fn trigger(&self) -> Result<Option<String>, Error> {
        let found = catalog::texts(
            "SELECT pg_catalog.pg_get_triggerdef(oid) || ' ' || tgenabled::pg_catalog.text
             FROM pg_catalog.pg_trigger
             WHERE tgrelid = $1 AND tgname = $2 AND NOT tgisinternal",
            &[self.oid.into(), TRIGGER.into()],
        )?;
        Ok(found.into_iter().next())
    }

    pub fn set_up(&self) -> Result<Vec<Step>, Error> {
        let component = format!("trigger {TRIGGER} on {}", self.name);
        let before = self.trigger()?;
        if before.is_some() {
            catalog::execute(&format!("DROP TRIGGER {TRIGGER} ON {}", self.name), &[])?;
        }
        catalog::execute(
            &format!(
                "CREATE TRIGGER {TRIGGER} AFTER INSERT OR UPDATE ON {} FOR EACH ROW
                 EXECUTE FUNCTION civic.notify_ticket_update()",
                self.name
            ),
            &[],
        )?;
        let mut steps = vec![match before {
            None => step(component, DONE, "created"),
            before if before == self.trigger()? => step(component, ALREADY, "as pg_civic makes it"),
            Some(_) => step(component, DONE, "took the place of another of this name"),
        }];
        if !self.missing.is_empty() {
            let detail =
                format!("null in every event, the table lacks them: {}", self.missing.join(", "));
            steps.push(step(format!("columns of {}", self.name), SKIPPED, detail));
        }
        Ok(steps)
    }
}

/// Every trigger in the database that calls the trigger function: its name, table, the table's
/// owner, whether the caller is one, and whether it fires.
pub fn triggers() -> Result<Vec<InstalledTrigger>, Error> {
    catalog::rows(
        "SELECT t.tgname::pg_catalog.text, pg_catalog.format('%I.%I', n.nspname, c.relname),
                pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
                pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'),
                t.tgenabled IN ('O', 'A')
         FROM pg_catalog.pg_trigger t
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE t.tgfoid = 'civic.notify_ticket_update()'::pg_catalog.regprocedure
           AND NOT t.tgisinternal AND t.tgparentid = 0
         ORDER BY 2, 1",
        &[],
        |row| {
            Ok(InstalledTrigger {
                name: row.get(1)?.unwrap_or_default(),
                table: row.get(2)?.unwrap_or_default(),
                owner: row.get(3)?.unwrap_or_default(),
                is_owned: row.get(4)?.unwrap_or_default(),
                is_enabled: row.get(5)?.unwrap_or_default(),
            })
        },
    )
}

pub struct InstalledTrigger {
    pub name: String,
    pub table: String,
    pub owner: String,
    pub is_owned: bool,
    pub is_enabled: bool,
}

pub fn missing_privileges_to_remove() -> Result<Vec<String>, Error> {
    let foreign = triggers()?.into_iter().filter(|trigger| !trigger.is_owned);
    Ok(foreign
        .map(|trigger| {
            format!("ownership of table {} (its owner is {})", trigger.table, trigger.owner)
        })
        .collect())
}

pub fn tear_down() -> Result<Vec<Step>, Error> {
    let triggers = triggers()?;
    if triggers.is_empty() {
        return Ok(vec![step("trigger", SKIPPED, "there is none")]);
    }
    let remove = |trigger: InstalledTrigger| {
        let InstalledTrigger { name, table, .. } = trigger;
        catalog::execute(&format!("DROP TRIGGER {} ON {table}", quote_identifier(&name)), &[])?;
        Ok(step(format!("trigger {name} on {table}"), REMOVED, "dropped"))
    };
    triggers.into_iter().map(remove).collect()
}
