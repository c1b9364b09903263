//! The application's tables in the catalog: columns, partitions, and which holds the tickets.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Oid};

use super::plan::Tickets;
use super::registry;
use super::rules::{Column, Kind, Rules, Table};
use crate::catalog;
use crate::error::Error;
use crate::pg;
use crate::setup::SetupError;
use crate::setup::relation::{Relation, relation};

/// A table of the application with what the rules need of it.
#[derive(Debug, Clone)]
pub struct Target {
    pub relation: Relation,
    pub schema: String,
    pub relname: String,
    pub table: Table,
    /// Whether it is a partition: it then gets the triggers of the whole table.
    pub is_partition: bool,
}

/// Schemas whose tables `protect()` does not take: the server's and those that `setup()` guards.
const SCHEMAS_OF_OTHERS: [&str; 7] = [
    "pg_catalog",
    "information_schema",
    "pg_toast",
    "civic",
    "civic_firewall",
    "storage",
    "realtime",
];

impl Target {
    /// The table that a caller has named.
    ///
    /// Errors: 42P01 for an OID of nothing, 42809 for what is not a table of the application.
    pub fn find(oid: Oid) -> Result<Target, Error> {
        let Some(relation) = Relation::with_oid(oid)? else {
            return Err(SetupError::NoRelation { oid: oid.to_u32() }.into());
        };
        relation.check_is_table()?;
        let target = Target::of(relation)?;
        let refuse = |why: &str, remedy: &str| {
            let table = target.relation.name.clone();
            let (why, remedy) = (why.to_owned(), remedy.to_owned());
            Err(SetupError::NotProtectable { table, why, remedy }.into())
        };
        if SCHEMAS_OF_OTHERS.contains(&target.schema.as_str()) {
            return refuse(
                "is not a table of the application",
                "Name a table of the application. civic.setup() guards those of Storage and Realtime.",
            );
        }
        if target.schema.starts_with("pg_temp") {
            return refuse("is a temporary table", "Name a table that every session sees.");
        }
        Ok(target)
    }

    pub fn of(relation: Relation) -> Result<Target, Error> {
        let found = catalog::rows(
            "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
                    pg_catalog.quote_ident(c.relname), c.relispartition
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = $1",
            &[relation.oid.into()],
            |row| {
                Ok((
                    row.get::<String>(1)?.unwrap_or_default(),
                    row.get::<String>(2)?.unwrap_or_default(),
                    row.get::<String>(3)?.unwrap_or_default(),
                    row.get::<bool>(4)?.unwrap_or_default(),
                ))
            },
        )?;
        let (schema, relname, short_name, is_partition) =
            found.into_iter().next().unwrap_or_default();
        let columns = columns(relation.oid)?;
        let table = Table { name: relation.name.clone(), short_name, columns };
        Ok(Target { relation, schema, relname, table, is_partition })
    }

    pub fn named(schema: &str, table: &str) -> Result<Option<Target>, Error> {
        Relation::named(schema, table)?.map(Target::of).transpose()
    }

    /// Partitions and inheritance children, at any depth. Those that cannot have policies are among them.
    pub fn descendants(&self) -> Result<Vec<Target>, Error> {
        const TREE: &str = concat!(
            "WITH RECURSIVE tree (oid) AS (
                 SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1
                 UNION
                 SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)
             SELECT ",
            relation!(),
            " FROM tree t
             JOIN pg_catalog.pg_class c ON c.oid = t.oid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             ORDER BY 2"
        );
        let found = catalog::rows(TREE, &[self.relation.oid.into()], Relation::read)?;
        found.into_iter().map(Target::of).collect()
    }

    /// The parents at any depth, the nearest first.
    pub fn ancestors(&self) -> Result<Vec<Target>, Error> {
        const TREE: &str = concat!(
            "WITH RECURSIVE tree (oid, level) AS (
                 SELECT inhparent, 1 FROM pg_catalog.pg_inherits WHERE inhrelid = $1
                 UNION
                 SELECT i.inhparent, t.level + 1
                 FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.oid)
             SELECT ",
            relation!(),
            " FROM (SELECT oid, pg_catalog.min(level) AS level FROM tree GROUP BY oid) t
             JOIN pg_catalog.pg_class c ON c.oid = t.oid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             ORDER BY t.level, 2"
        );
        let found = catalog::rows(TREE, &[self.relation.oid.into()], Relation::read)?;
        found.into_iter().map(Target::of).collect()
    }

    /// Whether it can have policies.
    pub fn takes_policies(&self) -> bool {
        matches!(self.relation.kind.as_str(), "r" | "p")
    }
}

fn columns(table: Oid) -> Result<Vec<Column>, Error> {
    let found = catalog::rows(
        "SELECT a.attname::pg_catalog.text, pg_catalog.quote_ident(a.attname), a.atttypid,
                pg_catalog.format_type(a.atttypid, NULL),
                coalesce((SELECT l.collisdeterministic FROM pg_catalog.pg_collation l
                          WHERE l.oid = a.attcollation), true)
         FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attnum",
        &[table.into()],
        |row| {
            let type_oid = row.get::<Oid>(3)?.unwrap_or(Oid::INVALID);
            let base = pg::base_type(type_oid);
            let kind = match base {
                pg_sys::UUIDOID => Kind::Uuid,
                pg_sys::TEXTOID | pg_sys::VARCHAROID => Kind::Text,
                pg_sys::BOOLOID => Kind::Boolean,
                other => Kind::Other(other.to_u32()),
            };
            Ok(Column {
                name: row.get(1)?.unwrap_or_default(),
                quoted: row.get(2)?.unwrap_or_default(),
                kind,
                is_exact: type_oid == base && base != pg_sys::VARCHAROID,
                is_deterministic: row.get(5)?.unwrap_or(true),
                type_name: row.get(4)?.unwrap_or_default(),
            })
        },
    )?;
    Ok(found)
}

/// The table of tickets that the rules' column of the ticket refers to: where its foreign key points, or
/// the only protected table that carries the trigger of `setup()` or has a sensitive column.
///
/// Errors: 55000 if there is none, more than one, or it is not protected.
pub fn tickets_of(target: &Target, rules: &Rules) -> Result<Option<Tickets>, Error> {
    let Some(column) = &rules.ticket else { return Ok(None) };
    let refuse = |why: String, remedy: &str| {
        let (table, column) = (target.relation.name.clone(), column.clone());
        Err(SetupError::NoTickets { table, column, why, remedy: remedy.to_owned() }.into())
    };
    let entries = registry::entries()?;
    let is_protected = |schema: &str, table: &str| {
        entries.iter().any(|entry| entry.schema == schema && entry.table == table)
    };
    let referenced = referenced(target.relation.oid, column)?;
    let (schema, table, id) = match &referenced[..] {
        [(schema, table, id)] => (schema.clone(), table.clone(), id.clone()),
        [] => {
            let with_tickets: Vec<_> = entries
                .iter()
                .filter(|entry| entry.rules.sensitive.is_some())
                .filter(|entry| (&entry.schema, &entry.table) != (&target.schema, &target.relname))
                .collect();
            match with_tickets[..] {
                [entry] => (entry.schema.clone(), entry.table.clone(), "id".to_owned()),
                [] => {
                    return refuse(
                        "no protected table has a sensitive column".to_owned(),
                        "Protect the table of tickets first: SELECT * FROM \
                         civic.protect('public.tickets'); or pass ticket_column => ''.",
                    );
                }
                _ => {
                    let names: Vec<_> = with_tickets.iter().map(|entry| entry.name()).collect();
                    return refuse(
                        format!("it could be {}", names.join(" or ")),
                        "Add a foreign key to the table of tickets.",
                    );
                }
            }
        }
        _ => return refuse("it has foreign keys to more than one table".to_owned(), "Keep one."),
    };
    let Some(tickets) = Target::named(&schema, &table)? else {
        let why = format!("table {schema}.{table} does not exist");
        return refuse(why, "Protect the table of tickets first.");
    };
    let name = tickets.relation.name.clone();
    if tickets.relation.oid == target.relation.oid {
        // A policy that reads its own table recurses.
        let why = "it refers to the table itself".to_owned();
        return refuse(why, "Turn the rule off: ticket_column => ''.");
    }
    if !is_protected(&schema, &table) {
        return refuse(
            format!("table {name} is not protected"),
            &format!("Protect it first: SELECT * FROM civic.protect('{name}');"),
        );
    }
    let Some(id) = tickets.table.column(&id).cloned() else {
        return refuse(format!("table {name} has no column {id}"), "Add a foreign key.");
    };
    Ok(Some(Tickets { name, id }))
}

/// Schema, table and column to which a foreign key of this column alone points.
fn referenced(table: Oid, column: &str) -> Result<Vec<(String, String, String)>, Error> {
    let arguments: [DatumWithOid<'_>; 2] = [table.into(), column.into()];
    catalog::rows(
        "SELECT DISTINCT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
                f.attname::pg_catalog.text
         FROM pg_catalog.pg_constraint k
         JOIN pg_catalog.pg_attribute a
              ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1] AND a.attname = $2
         JOIN pg_catalog.pg_class c ON c.oid = k.confrelid AND NOT c.relispartition
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_attribute f ON f.attrelid = c.oid AND f.attnum = k.confkey[1]
         WHERE k.contype = 'f' AND k.conrelid = $1 AND pg_catalog.cardinality(k.conkey) = 1",
        &arguments,
        |row| {
            Ok((
                row.get(1)?.unwrap_or_default(),
                row.get(2)?.unwrap_or_default(),
                row.get(3)?.unwrap_or_default(),
            ))
        },
    )
}
