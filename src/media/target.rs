//! Where a ticket's media goes. Whatever the caller says, that of a sensitive ticket goes behind the
//! firewall.
//!
//! The ticket is looked up in the tables that carry the trigger of [`civic.setup`], each as its own
//! owner: the caller need not be able to read it, and what the owner has put on the table runs with
//! the owner's rights, for a bounded time. Only columns of the server's own types are read, whose
//! casts are the server's own code.
//!
//! [`civic.setup`]: crate::setup

use pgrx::datum::DatumWithOid;
use pgrx::{Uuid, pg_sys, spi};

use crate::error::Error;
use crate::events::payload::is_plainly_no;
use crate::media::MediaError;
use crate::pg::foreign;
use crate::storage::bucket::{self, Bucket, file_extension};
use crate::storage::path;
use crate::{catalog, pg};

/// Where a file goes, fixed before it is fetched: however often that is tried, it is this one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub bucket: Bucket,
    pub path: String,
    pub file_id: Uuid,
    pub is_sensitive: bool,
}

impl Target {
    /// Puts the file where it belongs, now that it is known whether the ticket is sensitive.
    pub fn decide(&mut self, is_sensitive: bool) {
        self.is_sensitive = is_sensitive;
        self.bucket = Bucket::for_media(is_sensitive);
    }
}

/// What the webhook says that a file is, without parameters. 22023 for what is not on the list.
pub fn media_type(content_type: &str) -> Result<&str, MediaError> {
    let essence = bucket::essence(content_type);
    if bucket::MEDIA_TYPES.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(essence);
    }
    Err(MediaError::MediaType { content_type: content_type.to_owned() }.into())
}

/// The target of a new file: `{tenant}/{ticket}/{file}.{extension}`.
///
/// Errors: as [`is_sensitive`], and a tenant or a ticket that cannot be part of a path.
pub fn target(
    tenant_id: &str,
    ticket_id: &str,
    content_type: &str,
    declared_sensitive: bool,
) -> Result<Target, Error> {
    let ticket = TicketId::new(ticket_id);
    let folder = path::segment("ticket", ticket.canonical())?;
    let tenant_id = path::segment("tenant", tenant_id)?;
    let is_sensitive = is_sensitive(tenant_id, ticket_id, declared_sensitive)?;
    let file_id = pg::random_uuid();
    let name = format!("{file_id}.{}", file_extension(content_type));
    Ok(Target {
        bucket: Bucket::for_media(is_sensitive),
        path: path::object_path(tenant_id, folder, &name)?,
        file_id,
        is_sensitive,
    })
}

/// Whether a ticket's media is sensitive: where the caller says so, and where a ticket of this id is
/// found that is not plainly not. Where none is found the caller is believed. Tickets are read as others
/// have committed them by now, however old the caller's snapshot is.
///
/// Errors: the ticket is another municipality's (22023); a table cannot be read whole, or there is none
/// to look into (55000). No answer is better than one that opens the firewall.
pub fn is_sensitive(
    tenant_id: &str,
    ticket_id: &str,
    declared_sensitive: bool,
) -> Result<bool, Error> {
    let ticket = TicketId::new(ticket_id);
    let mut found = vec![];
    let tables = tables()?;
    // What is behind the firewall anyway needs no ticket.
    if !declared_sensitive && !tables.iter().any(Table::has_ids) {
        return Err(MediaError::NoTickets.into());
    }
    for table in tables {
        found.extend(table.find(&ticket)?);
    }
    if !found.is_empty() && !found.iter().any(|found| found.is_of(tenant_id)) {
        return Err(MediaError::TicketOfAnother { ticket_id: ticket_id.to_owned() }.into());
    }
    Ok(declared_sensitive || found.iter().any(|found| found.is_sensitive))
}

/// A ticket's id as somebody has written it. A UUID can be written in many ways.
#[derive(Debug, PartialEq, Eq)]
struct TicketId {
    given: String,
    uuid: Option<uuid::Uuid>,
    canonical: String,
}

impl TicketId {
    fn new(given: &str) -> TicketId {
        // PostgreSQL takes a hyphen behind any four digits, and braces around all.
        let digits: String = given.trim().chars().filter(|c| !"-{}".contains(*c)).collect();
        let uuid = uuid::Uuid::try_parse(&digits).ok();
        let canonical = uuid.map_or_else(|| given.to_owned(), |uuid| uuid.to_string());
        TicketId { given: given.to_owned(), uuid, canonical }
    }

    /// As the server would write it.
    fn canonical(&self) -> &str {
        &self.canonical
    }

    fn integer(&self) -> Option<i64> {
        self.given.trim().parse().ok()
    }
}

/// A ticket that was found.
struct Found {
    tenant_id: Option<String>,
    is_sensitive: bool,
}

impl Found {
    /// Of tenant and sensitivity. What is not plainly no is yes.
    fn from_row(row: Vec<Option<String>>) -> Found {
        let mut columns = row.into_iter();
        let (tenant_id, sensitive) = (columns.next().flatten(), columns.next().flatten());
        let is_sensitive = !sensitive.is_some_and(|text| is_plainly_no(text.as_bytes()));
        Found { tenant_id, is_sensitive }
    }

    fn is_of(&self, tenant_id: &str) -> bool {
        self.tenant_id.as_deref() == Some(tenant_id)
    }
}

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
struct Table {
    oid: pg_sys::Oid,
    /// Qualified and quoted.
    name: String,
    owner: pg_sys::Oid,
    id: Option<Column>,
    tenant_id: Option<Column>,
    is_sensitive: Option<Column>,
}

/// No temporary table is one of tickets: another session's cannot even be read.
fn tables() -> Result<Vec<Table>, Error> {
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
    fn has_ids(&self) -> bool {
        self.id.is_some()
    }

    /// The tickets of this id, at most one in a table with a key.
    ///
    /// Errors: the id or the tenant is of a type that cannot be read (55000); row security hides
    /// tickets from the table's owner (55000).
    fn find(&self, ticket: &TicketId) -> Result<Vec<Found>, Error> {
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
                let spellings = vec![ticket.given.clone(), ticket.canonical.clone()];
                self.read("t.id OPERATOR(pg_catalog.=) ANY ($1)", spellings.into())
            }
            _ => {
                let spellings = vec![ticket.given.clone(), ticket.canonical.clone()];
                let condition = "t.id::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($1)";
                self.read(condition, spellings.into())
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
        Err(MediaError::ColumnType { table, column: name, type_name }.into())
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
                return Err(MediaError::TicketsHidden { table: self.name.clone() }.into());
            }
            let rows = pg::fresh_snapshot::rows(&sql, &[id])?;
            Ok(rows.into_iter().map(Found::from_row).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "8f14e45f-ceea-467f-a83c-6d8b04dd5d30";

    #[test]
    fn a_uuid_is_the_same_however_it_is_written() {
        for spelling in [
            ID,
            "8F14E45F-CEEA-467F-A83C-6D8B04DD5D30",
            "{8f14e45f-ceea-467f-a83c-6d8b04dd5d30}",
            "8f14e45fceea467fa83c6d8b04dd5d30",
            "8f14-e45f-ceea-467f-a83c-6d8b-04dd-5d30",
            " 8f14e45f-ceea-467f-a83c-6d8b04dd5d30 ",
        ] {
            assert_eq!(TicketId::new(spelling).canonical(), ID, "{spelling}");
        }
    }

    #[test]
    fn an_id_that_is_no_uuid_stays_as_it_is() {
        for id in ["42", "T-1", "", "8f14e45f"] {
            assert_eq!(TicketId::new(id).canonical(), id);
        }
        assert_eq!(TicketId::new("42").integer(), Some(42));
        assert_eq!(TicketId::new("42x").integer(), None);
    }

    proptest! {
        #[test]
        fn every_spelling_with_hyphens_is_the_same_uuid(
            bytes in any::<[u8; 16]>(), hyphens in any::<[bool; 7]>(), upper in any::<bool>()
        ) {
            let uuid = uuid::Uuid::from_bytes(bytes);
            let digits = uuid.simple().to_string();
            let mut spelling = digits[..4].to_owned();
            for (index, hyphen) in hyphens.into_iter().enumerate() {
                spelling.push_str(if hyphen { "-" } else { "" });
                spelling.push_str(&digits[4 + index * 4..8 + index * 4]);
            }
            let spelling = if upper { spelling.to_uppercase() } else { spelling };
            prop_assert_eq!(TicketId::new(&spelling).uuid, Some(uuid));
        }
    }
}
