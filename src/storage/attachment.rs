//! The application's table of attachments, `civic.media_table`.
//!
//! Its owner writes: nobody else needs a right on it, so that every row is of a file that exists. What
//! the owner has put on the table, triggers for one, runs with his rights and no more.

mod restrict;

use pgrx::spi::quote_identifier;
use pgrx::{JsonB, pg_sys, spi};
use serde_json::{Map, Value, json};

use crate::catalog::{self, Change};
use crate::error::{Error, ServiceError};
use crate::pg::{Json, foreign};

/// The columns that say which file it is: without them nothing can be recorded, or found again.
const REQUIRED: [&str; 3] = ["file_id", "s3_bucket", "s3_key"];

/// What [`Attachments::record`] answers with.
const ANSWERED: [&str; 8] =
    ["id", "file_id", "filename", "content_type", "file_size", "purpose", "source", "created_at"];

/// A file to be recorded.
pub struct Attachment<'a> {
    pub tenant_id: &'a str,
    pub ticket_id: Option<&'a str>,
    pub file_id: &'a str,
    pub bucket: &'a str,
    pub path: &'a str,
    pub content_type: Option<&'a str>,
    pub size: i64,
    pub purpose: &'a str,
    /// Where it came from: `web` or `whatsapp`.
    pub source: &'a str,
    pub created_by: Option<&'a str>,
}

/// The table as it is.
pub struct Attachments {
    oid: pg_sys::Oid,
    /// Qualified and quoted.
    name: String,
    owner: pg_sys::Oid,
    columns: Vec<Column>,
    /// Constraints that may wait for the transaction's end, qualified and quoted.
    deferrable: Vec<String>,
}

struct Column {
    name: String,
    /// Whether the table itself gives it a value.
    has_default: bool,
    is_uuid: bool,
    is_text: bool,
}

impl Attachments {
    /// Errors: 42P01 where the setting names no table, 42703 for one without the columns it takes.
    pub fn find(setting: &str) -> Result<Attachments, Error> {
        let no_table = |why| ServiceError::NoMediaTable { table: setting.to_owned(), why };
        let (schema, table) =
            qualified_name(setting).ok_or(no_table("is no name of a schema and a table"))?;
        let found = catalog::planned(
            "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
            &[schema.into(), table.into()],
            |row| {
                Ok::<_, spi::Error>((
                    row.get(1)?.unwrap_or(pg_sys::InvalidOid),
                    row.get::<String>(2)?.unwrap_or_default(),
                    row.get(3)?.unwrap_or(pg_sys::InvalidOid),
                ))
            },
        )?;
        let (oid, name, owner) = found.into_iter().next().ok_or(no_table("does not exist"))?;
        let columns = columns(oid)?;
        let has = |name: &str| columns.iter().any(|column| column.name == name);
        let missing: Vec<_> =
            REQUIRED.into_iter().filter(|name| !has(name)).map(str::to_owned).collect();
        if !missing.is_empty() {
            return Err(ServiceError::MediaTableColumns { table: name, missing }.into());
        }
        Ok(Attachments { deferrable: deferrable(oid)?, oid, name, owner, columns })
    }

    /// Whether the table itself keeps two rows of one file id out.
    pub fn is_unique(&self) -> Result<bool, Error> {
        catalog::holds(
            "SELECT EXISTS (
                 SELECT FROM pg_catalog.pg_index i
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                 WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid
                   AND i.indimmediate AND i.indpred IS NULL AND i.indnkeyatts = 1
                   AND a.attname = 'file_id')",
            &[self.oid.into()],
        )
    }

    /// What makes it so.
    pub fn unique_index_statement(&self) -> String {
        format!("CREATE UNIQUE INDEX ON {} (file_id);", self.name)
    }

    /// The row of a file, if it has been recorded.
    pub fn find_recorded(&self, attachment: &Attachment<'_>) -> Result<Option<Value>, Error> {
        // Compared as what it is, so that its index serves.
        let is_uuid = |column: &Column| column.name == "file_id" && column.is_uuid;
        let file_id = if self.columns.iter().any(is_uuid) {
            "t.file_id OPERATOR(pg_catalog.=) $1::pg_catalog.uuid"
        } else {
            "t.file_id::pg_catalog.text OPERATOR(pg_catalog.=) $1"
        };
        let sql = format!(
            "SELECT pg_catalog.to_jsonb(t) FROM {} t
             WHERE {file_id}
               AND t.s3_bucket::pg_catalog.text OPERATOR(pg_catalog.=) $2
               AND t.s3_key::pg_catalog.text OPERATOR(pg_catalog.=) $3",
            self.name
        );
        let Attachment { file_id, bucket, path, .. } = *attachment;
        let rows = foreign::run(self.owner, &self.name, foreign::LIMIT, || {
            // A row becomes JSON by casts of its columns' types.
            self.refuse_code_of_others()?;
            catalog::rows(&sql, &[file_id.into(), bucket.into(), path.into()], |row| {
                row.get::<Json>(1)
            })
        })?;
        Ok(rows.into_iter().flatten().next().map(|row| answer(&row.0)))
    }

    /// Records a file, in those columns that the table has. `None` where it is recorded already, or
    /// its file id is taken.
    pub fn record(&self, attachment: &Attachment<'_>) -> Result<Option<Value>, Error> {
        // What waited for the end of the transaction would run as whoever that belongs to, so the
        // server lets nothing wait that is done in another's name.
        for constraint in &self.deferrable {
            catalog::set(&format!("SET CONSTRAINTS {constraint} IMMEDIATE"))?;
        }
        let values = self.values(attachment);
        let columns: Vec<_> = values.keys().map(quote_identifier).collect();
        let sql = format!(
            "INSERT INTO {table} AS t ({columns})
             SELECT {values} FROM pg_catalog.jsonb_populate_record(NULL::{table}, $1) AS r
             {conflict}
             RETURNING pg_catalog.to_jsonb(t)",
            table = self.name,
            // Without an index to go by there is nothing that conflicts.
            conflict = if self.is_unique()? { "ON CONFLICT (file_id) DO NOTHING" } else { "" },
            columns = columns.join(", "),
            values = columns.iter().map(|name| format!("r.{name}")).collect::<Vec<_>>().join(", "),
        );
        foreign::run(self.owner, &self.name, foreign::LIMIT, || {
            self.refuse_code_of_others()?;
            let values = [JsonB(Value::Object(values)).into()];
            let rows = catalog::written(&sql, &values, |row| row.get::<Json>(1))?;
            Ok(rows.into_iter().flatten().next().map(|row| answer(&row.0)))
        })
    }

    fn refuse_code_of_others(&self) -> Result<(), Error> {
        catalog::refuse_code_of_others(self.oid, self.owner, &self.name, Change::Insert)
    }

    fn values(&self, attachment: &Attachment<'_>) -> Map<String, Value> {
        let filename = attachment.path.rsplit('/').next().unwrap_or_default();
        let known = json!({
            "tenant_id": attachment.tenant_id,
            "ticket_id": attachment.ticket_id,
            "file_id": attachment.file_id,
            "s3_bucket": attachment.bucket,
            "s3_key": attachment.path,
            "filename": filename,
            "content_type": attachment.content_type,
            "file_size": attachment.size,
            "purpose": attachment.purpose,
            "source": attachment.source,
            "is_processed": false,
            "created_by": attachment.created_by,
        });
        let mut values = Map::new();
        for Column { name, has_default, is_uuid, is_text } in &self.columns {
            let value = match name.as_str() {
                "id" if !has_default && (*is_uuid || *is_text) => {
                    crate::pg::random_uuid().to_string().into()
                }
                "created_at" if !has_default => "now".into(),
                _ => known.get(name).cloned().unwrap_or_default(),
            };
            if !value.is_null() {
                values.insert(name.clone(), value);
            }
        }
        values
    }
}

/// Those of the row's values that the caller is told.
fn answer(row: &Value) -> Value {
    ANSWERED.into_iter().map(|key| (key.to_owned(), row[key].clone())).collect::<Map<_, _>>().into()
}

/// A schema and a table as SQL writes them. A table's name alone could be anybody's.
fn qualified_name(setting: &str) -> Option<(String, String)> {
    let mut parts = vec![];
    let mut rest = setting.trim();
    loop {
        let (part, after) = identifier(rest)?;
        parts.push(part);
        match after.trim_start().strip_prefix('.') {
            Some(after) => rest = after.trim_start(),
            None if after.trim().is_empty() => break,
            None => return None,
        }
    }
    match <[String; 2]>::try_from(parts) {
        Ok([schema, table]) => Some((schema, table)),
        Err(_) => None,
    }
}

/// The identifier that a text begins with, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (before, after) = rest.split_once('"')?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    rest = after;
                }
                None => return (!name.is_empty()).then_some((name, after)),
            }
        }
    }
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    is_name.then(|| (name.to_ascii_lowercase(), after))
}

fn columns(table: pg_sys::Oid) -> Result<Vec<Column>, Error> {
    catalog::planned(
        "SELECT a.attname::pg_catalog.text, a.atthasdef OR a.attidentity <> '',
                a.atttypid = 'pg_catalog.uuid'::pg_catalog.regtype,
                a.atttypid IN ('pg_catalog.text'::pg_catalog.regtype,
                               'pg_catalog.varchar'::pg_catalog.regtype)
         FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attgenerated = '' AND a.attidentity <> 'a'
         ORDER BY a.attnum",
        &[table.into()],
        |row| {
            Ok::<_, spi::Error>(Column {
                name: row.get(1)?.unwrap_or_default(),
                has_default: row.get(2)?.unwrap_or_default(),
                is_uuid: row.get(3)?.unwrap_or_default(),
                is_text: row.get(4)?.unwrap_or_default(),
            })
        },
    )
}

/// The table's constraints that may wait for the transaction's end.
fn deferrable(table: pg_sys::Oid) -> Result<Vec<String>, Error> {
    catalog::texts(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.conname)
         FROM pg_catalog.pg_constraint c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
         WHERE c.conrelid = $1 AND c.condeferrable
         ORDER BY 1",
        &[table.into()],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_with_its_schema_as_in_sql() {
        for (setting, schema, table) in [
            ("public.media_attachments", "public", "media_attachments"),
            (" Public . Media ", "public", "media"),
            ("\"My Schema\".\"a.\"\"b\"", "My Schema", "a.\"b"),
            ("été.t$1", "été", "t$1"),
        ] {
            let expected = Some((schema.to_owned(), table.to_owned()));
            assert_eq!(qualified_name(setting), expected, "{setting}");
        }
    }

    #[test]
    fn a_name_alone_or_a_broken_one_names_no_table() {
        for setting in
            ["", "t", "a.b.c", ".t", "s.", "s..t", "\"s.t", "\"\".t", "s.t; x", "1.t", "s t", "s.-"]
        {
            assert_eq!(qualified_name(setting), None, "{setting:?}");
        }
    }
}
