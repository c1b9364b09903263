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
use super::ticket::{Found, Names, TicketId};
use crate::catalog::{self, Change};
use crate::error::Error;
use crate::pg;
use crate::pg::foreign;

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
    assigned_to: Option<Column>,
}

/// No temporary table is one of tickets: another session's cannot even be read.
pub fn tables() -> Result<Vec<Table>, Error> {
    catalog::planned(
        "SELECT DISTINCT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner,
                i.atttypid, t_id.atttypid, s.atttypid, a.atttypid
         FROM pg_catalog.pg_trigger t
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid AND c.relpersistence <> 't'
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_attribute i
                ON i.attrelid = c.oid AND i.attname = 'id' AND NOT i.attisdropped AND i.attnum > 0
         LEFT JOIN pg_catalog.pg_attribute t_id
                ON t_id.attrelid = c.oid AND t_id.attname = 'tenant_id' AND NOT t_id.attisdropped
         LEFT JOIN pg_catalog.pg_attribute s
                ON s.attrelid = c.oid AND s.attname = 'is_sensitive' AND NOT s.attisdropped
         LEFT JOIN pg_catalog.pg_attribute a
                ON a.attrelid = c.oid AND a.attname = 'assigned_to' AND NOT a.attisdropped
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
                assigned_to: column(7)?,
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
        match self.is_ticket(ticket)? {
            Some((condition, id)) => {
                let rows = self.read(condition, "", &[id])?;
                Ok(rows.into_iter().map(Found::from_row).collect())
            }
            None => Ok(vec![]),
        }
    }

    /// [`Table::find`], with how each ticket names a user. A column of a type that cannot be read names nobody.
    pub fn find_for(
        &self,
        ticket: &TicketId,
        user_id: &str,
        owner_columns: &[String],
    ) -> Result<Vec<(Found, Names)>, Error> {
        let Some((condition, id)) = self.is_ticket(ticket)? else { return Ok(vec![]) };
        let names = |columns: &[String]| -> Result<String, Error> {
            let readable = self.readable_columns(columns)?;
            let is_user =
                |name: &String| format!("t.{name}::pg_catalog.text OPERATOR(pg_catalog.=) $2");
            let terms: Vec<_> = readable.iter().map(is_user).collect();
            Ok(if terms.is_empty() { "false".to_owned() } else { terms.join(" OR ") })
        };
        let more = format!(
            ", ({})::pg_catalog.text, ({})::pg_catalog.text",
            names(owner_columns)?,
            names(&["assigned_to".to_owned()])?
        );
        // Used in every case, so that the server knows its type.
        let condition = format!("{condition} AND $2::pg_catalog.text IS NOT NULL");
        let rows = self.read(&condition, &more, &[id, user_id.into()])?;
        let names = |row: &[Option<String>]| {
            let is_true = |place: usize| row.get(place).and_then(Option::as_deref) == Some("true");
            Names { as_owner: is_true(2), as_assigned: is_true(3) }
        };
        Ok(rows
            .into_iter()
            .map(|row| {
                let names = names(&row);
                (Found::from_row(row), names)
            })
            .collect())
    }

    /// Those of these columns that the table has and whose values can be read, quoted.
    fn readable_columns(&self, names: &[String]) -> Result<Vec<String>, Error> {
        let found = catalog::rows(
            "SELECT pg_catalog.quote_ident(attname), atttypid FROM pg_catalog.pg_attribute
             WHERE attrelid = $1 AND attname = ANY ($2) AND attnum > 0 AND NOT attisdropped",
            &[self.oid.into(), names.to_vec().into()],
            |row| {
                let type_oid = row.get(2)?.unwrap_or(pg_sys::InvalidOid);
                Ok((row.get::<String>(1)?.unwrap_or_default(), Column::new(type_oid)))
            },
        )?;
        Ok(found.into_iter().filter(|(_, it)| it.is_readable()).map(|(name, _)| name).collect())
    }

    /// The condition on table `t` that a row is this ticket, and its parameter `$1`. `None` if no row can be.
    fn is_ticket<'a>(
        &self,
        ticket: &TicketId,
    ) -> Result<Option<(&'static str, DatumWithOid<'a>)>, Error> {
        let Some(id) = self.id else { return Ok(None) };
        self.readable("id", id)?;
        let condition = "t.id OPERATOR(pg_catalog.=) $1";
        Ok(match id.base {
            // Those with an index, compared as what they are: another type's value is no ticket's.
            pg_sys::UUIDOID => {
                ticket.uuid.map(|uuid| (condition, Uuid::from_bytes(*uuid.as_bytes()).into()))
            }
            pg_sys::INT8OID | pg_sys::INT4OID | pg_sys::INT2OID => {
                ticket.integer().map(|integer| (condition, integer.into()))
            }
            pg_sys::TEXTOID | pg_sys::VARCHAROID => {
                Some(("t.id OPERATOR(pg_catalog.=) ANY ($1)", ticket.spellings().into()))
            }
            _ => {
                let condition = "t.id::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($1)";
                Some((condition, ticket.spellings().into()))
            }
        })
    }

    /// Marks a ticket of a municipality as sensitive, as the table's owner. `assigned`: only one that is
    /// assigned to this user. `reads_sensitive`: also one whose sensitivity is unknown. Whether the caller
    /// sees such a ticket.
    ///
    /// Errors: as [`Table::find`]; 55000 if a superuser owns the table and a change would run code of others.
    pub fn mark_sensitive(
        &self,
        ticket: &TicketId,
        tenant_id: &str,
        assigned: Option<&str>,
        reads_sensitive: bool,
    ) -> Result<bool, Error> {
        let is_boolean = |column: &Column| column.base == pg_sys::BOOLOID;
        let (Some(tenant), Some(_)) = (self.tenant_id, self.is_sensitive.filter(is_boolean)) else {
            return Ok(false);
        };
        self.readable("tenant_id", tenant)?;
        let of_user = match (assigned, self.assigned_to) {
            (None, _) => "$4::pg_catalog.text IS NULL",
            (Some(_), Some(column)) if column.is_readable() => {
                "t.assigned_to::pg_catalog.text OPERATOR(pg_catalog.=) $4"
            }
            _ => return Ok(false),
        };
        let Some((condition, id)) = self.is_ticket(ticket)? else { return Ok(false) };
        let name = &self.name;
        let visible = format!(
            "{condition} AND t.tenant_id::pg_catalog.text COLLATE pg_catalog.\"C\"
                             OPERATOR(pg_catalog.=) $2
             AND (t.is_sensitive IS FALSE OR $3) AND {of_user}"
        );
        let update = format!(
            "UPDATE {name} t SET is_sensitive = true WHERE {visible} AND t.is_sensitive IS NOT TRUE"
        );
        let sees = format!("SELECT EXISTS (SELECT FROM {name} t WHERE {visible})");
        let arguments = [id, tenant_id.into(), reads_sensitive.into(), assigned.into()];
        foreign::run(self.owner, name, foreign::LIMIT, || {
            catalog::refuse_code_of_others(self.oid, self.owner, name, Change::Any)?;
            self.refuse_hidden()?;
            // First: afterwards a caller who does not read sensitive tickets does not see it any more.
            let is_seen = catalog::holds(&sees, &arguments)?;
            if is_seen {
                catalog::update(&update, &arguments)?;
            }
            Ok(is_seen)
        })
    }

    /// Errors: 55000 if row security hides rows from the current user.
    fn refuse_hidden(&self) -> Result<(), Error> {
        let is_hidden = pg::fresh_snapshot::planned(
            "SELECT 1 WHERE pg_catalog.row_security_active($1::pg_catalog.oid)",
            &[self.oid.into()],
        )?;
        if is_hidden.is_empty() {
            return Ok(());
        }
        Err(TicketError::Hidden { table: self.name.clone() }.into())
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

    /// Tenant and sensitivity of each row, and `more` columns.
    fn read(
        &self,
        condition: &str,
        more: &str,
        arguments: &[DatumWithOid<'_>],
    ) -> Result<Vec<Vec<Option<String>>>, Error> {
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
            "SELECT t.tenant_id::pg_catalog.text, {sensitive}{more} FROM {} t WHERE {condition}",
            self.name
        );
        foreign::run(self.owner, &self.name, foreign::LIMIT, || {
            // Nobody changes the table from here on.
            pg::lock_for_reading(self.oid);
            // A policy that holds the owner too would hide tickets without an error.
            self.refuse_hidden()?;
            Ok(pg::fresh_snapshot::rows(&sql, arguments)?)
        })
    }
}
