//! The tables of tickets: those that carry the trigger of [`civic.setup`].
//!
//! A ticket is looked up in each as the table's own owner. The caller need not be able to read it, and
//! code that the owner has put on the table runs with the owner's rights, for a bounded time. Only columns
//! of the server's own types are read, whose casts are the server's own code.
//!
//! [`civic.setup`]: crate::setup

use pgrx::datum::DatumWithOid;
use pgrx::{Uuid, pg_sys, spi};

use super::TicketError;
use super::ticket::{Found, TicketId};
use crate::error::Error;
use crate::pg::foreign;
use crate::{catalog, pg};

/// A column of a table of tickets.
#[derive(Debug, Clone, Copy)]
struct Column {
    type_oid: pg_sys::Oid,
    /// The type itself, or what a domain is made of.
    base: pg_sys::Oid,
}

impl Column {
    fn new(type_oid: pg_sys::Oid) -> Column {
        Column { type_oid, base: pg::base_type(type_oid) }
    }

    /// Whether its comparison and its cast to text are the server's own code. No role but a superuser
    /// can change those of a built-in type.
    fn is_readable(self) -> bool {
        matches!(
            self.base,
            pg_sys::UUIDOID
                | pg_sys::TEXTOID
                | pg_sys::VARCHAROID
                | pg_sys::BPCHAROID
                | pg_sys::INT2OID
                | pg_sys::INT4OID
                | pg_sys::INT8OID
                | pg_sys::NUMERICOID
                | pg_sys::BOOLOID
        )
    }
}

/// A table that carries the trigger.
pub struct Table {
    oid: pg_sys::Oid,
    /// Qualified and quoted.
    name: String,
    owner: pg_sys::Oid,
    id: Option<Column>,
    tenant_id: Option<Column>,
    is_sensitive: Option<Column>,
}

/// No temporary table is one of tickets: another session's cannot even be read.
pub fn tables() -> Result<Vec<Table>, Error> {
    catalog::planned(
        "SELECT DISTINCT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner,
                i.atttypid, t_id.atttypid, s.atttypid
         FROM pg_catalog.pg_trigger t
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid AND c.relpersistence <> 't'
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_attribute i
                ON i.attrelid = c.oid AND i.attname = 'id' AND NOT i.attisdropped AND i.attnum > 0
         LEFT JOIN pg_catalog.pg_attribute t_id
                ON t_id.attrelid = c.oid AND t_id.attname = 'tenant_id' AND NOT t_id.attisdropped
         LEFT JOIN pg_catalog.pg_attribute s
                ON s.attrelid = c.oid AND s.attname = 'is_sensitive' AND NOT s.attisdropped
         WHERE t.tgfoid = 'civic.notify_ticket_update()'::pg_catalog.regprocedure
           AND t.tgparentid = 0 AND NOT t.tgisinternal
         ORDER BY 2",
        &[],
        |row| {
            let column = |place| Ok::<_, spi::Error>(row.get(place)?.map(Column::new));
            Ok::<_, spi::Error>(Table {
                oid: row.get(1)?.unwrap_or(pg_sys::InvalidOid),
                name: row.get(2)?.unwrap_or_default(),
                owner: row.get(3)?.unwrap_or(pg_sys::InvalidOid),
                id: column(4)?,
                tenant_id: column(5)?,
                is_sensitive: column(6)?,
            })
        },
    )
}

impl Table {
    pub fn has_ids(&self) -> bool {
        self.id.is_some()
    }

    /// The tickets of this id, at most one in a table with a key.
    ///
    /// Errors: the id or the tenant is of a type that cannot be read (55000); row security hides
    /// tickets from the table's owner (55000).
    pub fn find(&self, ticket: &TicketId) -> Result<Vec<Found>, Error> {
        let Some(id) = self.id else { return Ok(vec![]) };
        self.readable("id", id)?;
        let condition = "t.id OPERATOR(pg_catalog.=) $1";
        match id.base {
            // Those with an index, compared as what they are: another type's value is no ticket's.
            pg_sys::UUIDOID => match ticket.uuid {
                Some(uuid) => self.read(condition, Uuid::from_bytes(*uuid.as_bytes()).into()),
                None => Ok(vec![]),
            },
            pg_sys::INT8OID | pg_sys::INT4OID | pg_sys::INT2OID => match ticket.integer() {
                Some(integer) => self.read(condition, integer.into()),
                None => Ok(vec![]),
            },
            pg_sys::TEXTOID | pg_sys::VARCHAROID => {
                self.read("t.id OPERATOR(pg_catalog.=) ANY ($1)", ticket.spellings().into())
            }
            _ => {
                let condition = "t.id::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($1)";
                self.read(condition, ticket.spellings().into())
            }
        }
    }

    fn readable(&self, name: &'static str, column: Column) -> Result<(), Error> {
        if column.is_readable() {
            return Ok(());
        }
        let type_name =
            catalog::texts("SELECT pg_catalog.format_type($1, NULL)", &[column.type_oid.into()])?;
        let (table, type_name) = (self.name.clone(), type_name.concat());
        Err(TicketError::ColumnType { table, column: name, type_name }.into())
    }

    fn read(&self, condition: &str, id: DatumWithOid<'_>) -> Result<Vec<Found>, Error> {
        if let Some(tenant_id) = self.tenant_id {
            self.readable("tenant_id", tenant_id)?;
        }
        let sensitive = match self.is_sensitive {
            None => "'false'",
            Some(column) if column.is_readable() => "t.is_sensitive::pg_catalog.text",
            // What cannot be read without code of others is not plainly no.
            Some(_) => "NULL",
        };
        let sql = format!(
            "SELECT t.tenant_id::pg_catalog.text, {sensitive} FROM {} t WHERE {condition}",
            self.name
        );
        foreign::run(self.owner, &self.name, foreign::LIMIT, || {
            // Nobody changes the table from here on.
            pg::lock_for_reading(self.oid);
            // A policy that holds the owner too would hide tickets without an error.
            let is_hidden = pg::fresh_snapshot::rows(
                "SELECT 1 WHERE pg_catalog.row_security_active($1::pg_catalog.oid)",
                &[self.oid.into()],
            )?;
            if !is_hidden.is_empty() {
                return Err(TicketError::Hidden { table: self.name.clone() }.into());
            }
            let rows = pg::fresh_snapshot::rows(&sql, &[id])?;
            Ok(rows.into_iter().map(Found::from_row).collect())
        })
    }
}
