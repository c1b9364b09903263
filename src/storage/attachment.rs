//! The application's table of attachments, `civic.media_table`.
//!
//! Rows are written as the table's owner. No other role needs rights on it, so every row describes
//! a file that exists. Triggers and other code on the table run with only the owner's rights.

mod restrict;

use pgrx::spi::quote_identifier;
use pgrx::{JsonB, pg_sys, spi};
use serde_json::{Map, Value, json};

use super::StorageError;
use crate::catalog::{self, Change};
use crate::error::Error;
use crate::pg::{Json, foreign};

/// Columns that identify the file. Without them a row can neither be recorded nor found.
const REQUIRED: [&str; 3] = ["file_id", "s3_bucket", "s3_key"];

/// The keys of the result of [`Attachments::record`].
const ANSWERED: [&str; 8] =
    ["id", "file_id", "filename", "content_type", "file_size", "purpose", "source", "created_at"];

/// A file to record.
pub struct Attachment<'a> {
    pub tenant_id: &'a str,
    pub ticket_id: Option<&'a str>,
    pub file_id: &'a str,
    pub bucket: &'a str,
    pub path: &'a str,
    pub content_type: Option<&'a str>,
    pub size: i64,
    pub purpose: &'a str,
    /// Where the file came from: `web` or `whatsapp`.
    pub source: &'a str,
    pub created_by: Option<&'a str>,
}

/// The table's current definition.
pub struct Attachments {
    oid: pg_sys::Oid,
    /// Qualified and quoted.
    name: String,
    owner: pg_sys::Oid,
    columns: Vec<Column>,
    /// Constraints that may be deferred, qualified and quoted.
    deferrable: Vec<String>,
}

struct Column {
    name: String,
    /// Whether the column has a default.
    has_default: bool,
    is_uuid: bool,
    is_text: bool,
}

impl Attachments {
    /// Errors: 42P01 if the setting names no table, 42703 if the table lacks required columns.
    pub fn find(setting: &str) -> Result<Attachments, Error> {
        let no_table = |why| StorageError::NoMediaTable { table: setting.to_owned(), why };
        let (schema, table) =
            qualified_name(setting).ok_or(no_table("is not a qualified table name"))?;
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
            return Err(StorageError::MediaTableColumns { table: name, missing }.into());
        }
        Ok(Attachments { deferrable: deferrable(oid)?, oid, name, owner, columns })
    }

    /// Whether the table rejects two rows with the same file id.
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

    /// The statement that makes the file id unique.
    pub fn unique_index_statement(&self) -> String {
        format!("CREATE UNIQUE INDEX ON {} (file_id);", self.name)
    }

    /// The row of a file, if it is recorded.
    pub fn find_recorded(&self, attachment: &Attachment<'_>) -> Result<Option<Value>, Error> {
        // Compared with its own type, so that its index is used.
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
            // Converting a row to JSON runs casts of its columns' types.
            self.refuse_code_of_others()?;
            catalog::rows(&sql, &[file_id.into(), bucket.into(), path.into()], |row| {
                row.get::<Json>(1)
            })
        })?;
        Ok(rows.into_iter().flatten().next().map(|row| answer(&row.0)))
    }

    /// Records a file in the columns that the table has. `None` if it is already recorded, or if
    /// its file id is taken.
    pub fn record(&self, attachment: &Attachment<'_>) -> Result<Option<Value>, Error> {
        // A deferred constraint would run at the commit with the rights of the session, so the
        // server does not allow deferred triggers in a security-restricted operation.
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
            // Without a unique index there is no conflict to detect.
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

/// The values of the row that are returned to the caller.
fn answer(row: &Value) -> Value {
    ANSWERED.into_iter().map(|key| (key.to_owned(), row[key].clone())).collect::<Map<_, _>>().into()
}

/// A schema-qualified table name in SQL syntax. An unqualified name could refer to any role's
/// table.
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

/// The identifier at the start of a text, and the rest of the text.
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

/// The table's constraints that may be deferred.
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
    fn an_unqualified_or_invalid_name_is_not_a_table() {
        for setting in
            ["", "t", "a.b.c", ".t", "s.", "s..t", "\"s.t", "\"\".t", "s.t; x", "1.t", "s t", "s.-"]
        {
            assert_eq!(qualified_name(setting), None, "{setting:?}");
        }
    }
}
