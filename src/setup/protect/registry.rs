//! `civic.protected_tables`: which tables are protected, and by which columns.

use pgrx::datum::DatumWithOid;
use pgrx::spi::quote_identifier;

use super::rules::{Readable, Rules};
use crate::catalog;
use crate::error::Error;
use crate::pg::Row;

const TABLE: &str = "protected_tables";

/// A protected table by its name, whether or not it still exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub schema: String,
    pub table: String,
    pub rules: Rules,
}

impl Entry {
    fn read(row: &Row<'_, '_>) -> Result<Entry, pgrx::spi::Error> {
        let readable = row.get::<String>(9)?.unwrap_or_default();
        Ok(Entry {
            schema: row.get(1)?.unwrap_or_default(),
            table: row.get(2)?.unwrap_or_default(),
            rules: Rules {
                tenant: row.get(3)?.unwrap_or_default(),
                owners: row.get(4)?.unwrap_or_default(),
                assigned: row.get(5)?,
                sensitive: row.get(6)?,
                ticket: row.get(7)?,
                guarded: row.get(8)?.unwrap_or_default(),
                // The table has a CHECK constraint.
                readable: Readable::parse(&readable).unwrap_or(Readable::Staff),
            },
        })
    }

    /// Qualified and quoted.
    pub fn name(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }
}

pub fn entries() -> Result<Vec<Entry>, Error> {
    let select = "SELECT schema_name, table_name, tenant_column, owner_columns, assigned_column, \
                sensitive_column, ticket_column, guarded_columns, readable
         FROM civic.protected_tables ORDER BY ticket_column IS NOT NULL, 1, 2";
    let read = || catalog::rows(select, &[], Entry::read);
    Ok(catalog::with_own_table(TABLE, read)?.unwrap_or_default())
}

/// Replaces what is recorded of the table, and removes what is recorded of tables that do not exist.
pub fn record(entry: &Entry) -> Result<(), Error> {
    let Entry { schema, table, rules } = entry;
    forget(schema, table)?;
    let insert = "INSERT INTO civic.protected_tables
             (schema_name, table_name, tenant_column, owner_columns, assigned_column,
              sensitive_column, ticket_column, guarded_columns, readable)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let arguments = [
        schema.as_str().into(),
        table.as_str().into(),
        rules.tenant.as_str().into(),
        rules.owners.clone().into(),
        rules.assigned.as_deref().into(),
        rules.sensitive.as_deref().into(),
        rules.ticket.as_deref().into(),
        rules.guarded.clone().into(),
        rules.readable.name().into(),
    ];
    write(insert, &arguments)?;
    write(
        "DELETE FROM civic.protected_tables p
         WHERE NOT EXISTS (
             SELECT FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
             WHERE n.nspname OPERATOR(pg_catalog.=) p.schema_name
               AND c.relname OPERATOR(pg_catalog.=) p.table_name)",
        &[],
    )
}

pub fn forget(schema: &str, table: &str) -> Result<(), Error> {
    write(
        "DELETE FROM civic.protected_tables
         WHERE schema_name OPERATOR(pg_catalog.=) $1 AND table_name OPERATOR(pg_catalog.=) $2",
        &[schema.into(), table.into()],
    )
}

fn write(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
    catalog::with_own_table(TABLE, || catalog::update(sql, arguments)).map(|_| ())
}
