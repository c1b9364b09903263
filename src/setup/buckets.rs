//! The three buckets. Their rows are changed as the owner of storage.buckets.

use pgrx::pg_sys;

use super::files::{owner_of, storage_tables};
use super::{ALREADY, DONE, KEPT, REMOVED, SKIPPED, Step, catalog, step};
use crate::catalog::CatalogError;
use crate::catalog::{Change, Owner};
use crate::error::Error;
use crate::storage::bucket::{ALL, Bucket};

/// With whose rights the caller sees every row of storage.buckets.
pub enum Reader {
    Owner(Owner),
    Caller,
    Nobody,
}

impl Reader {
    pub fn find() -> Result<Reader, Error> {
        let found = catalog::rows(
            concat!(
                "SELECT c.relowner,
                        pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE')
                            AND (r.rolsuper OR r.rolbypassrls
                                 OR NOT (c.relrowsecurity AND c.relforcerowsecurity)),
                        pg_catalog.has_schema_privilege(current_user, n.oid, 'USAGE')
                            AND pg_catalog.has_table_privilege(current_user, c.oid, 'SELECT')
                            AND NOT pg_catalog.row_security_active(c.oid)
                            -- Never with a superuser's rights: a plan runs expressions of indexes.
                            AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles s
                                            WHERE s.rolname = current_user AND s.rolsuper)
                 FROM ",
                storage_tables!(),
                " JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
                 WHERE c.relname = 'buckets'"
            ),
            &[],
            |row| Ok((row.get::<pg_sys::Oid>(1)?, row.get::<bool>(2)?, row.get::<bool>(3)?)),
        )?;
        Ok(match found.into_iter().next() {
            Some((Some(owner), Some(true), _)) => Reader::Owner(Owner::new(owner)?),
            Some((_, _, Some(true))) => Reader::Caller,
            _ => Reader::Nobody,
        })
    }

    /// Whether a bucket is public: `Some("true")`, `Some("false")`, or `None` where there is none. The
    /// columns have Storage's types, so with the caller's rights nothing of others runs.
    pub fn is_public(&self, id: &str) -> Result<Option<String>, Error> {
        let sql = "SELECT coalesce(public, false) FROM storage.buckets
                   WHERE id OPERATOR(pg_catalog.=) $1";
        let found = match self {
            Reader::Owner(owner) => owner.texts("storage.buckets", sql, &[id.into()])?,
            Reader::Caller => catalog::texts(sql, &[id.into()])?,
            Reader::Nobody => vec![],
        };
        Ok(found.into_iter().next())
    }
}

/// Where a superuser owns storage.buckets, and a change of it would run code of another role.
fn refuse_code_of_others(owner: Owner) -> Result<(), Error> {
    let found = catalog::rows(
        concat!("SELECT c.oid FROM ", storage_tables!(), " WHERE c.relname = 'buckets'"),
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    let table = found.into_iter().flatten().next().unwrap_or(pg_sys::InvalidOid);
    owner.refuse_code_of_others(table, "storage.buckets", Change::Any)
}

pub fn set_up() -> Result<Vec<Step>, Error> {
    let owner = owner_of("buckets")?;
    refuse_code_of_others(owner)?;
    ALL.into_iter().map(|bucket| set_up_one(owner, bucket)).collect()
}

fn set_up_one(owner: Owner, bucket: Bucket) -> Result<Step, Error> {
    let id = bucket.id();
    let component = format!("bucket {id}");
    let reader = Reader::Owner(owner);
    let (statement, done) = match reader.is_public(id)?.as_deref() {
        Some("false") => return Ok(step(component, ALREADY, "private")),
        Some(_) => (
            "UPDATE storage.buckets SET public = false WHERE id OPERATOR(pg_catalog.=) $1",
            "was public, made private",
        ),
        None => (
            "INSERT INTO storage.buckets (id, name, public) VALUES ($1, $1, false)",
            "created, private",
        ),
    };
    owner.change("storage.buckets", statement, &[id.into()])?;
    Ok(match reader.is_public(id)?.as_deref() {
        Some("false") => step(component, DONE, done),
        _ => step(component, SKIPPED, "a trigger or a rule of storage.buckets prevents it"),
    })
}

pub fn tear_down() -> Result<Vec<Step>, Error> {
    ALL.into_iter().map(tear_down_one).collect()
}

/// Removes a bucket that holds nothing. One that cannot be removed is kept.
fn tear_down_one(bucket: Bucket) -> Result<Step, Error> {
    let id = bucket.id();
    let component = format!("bucket {id}");
    let owner = owner_of("buckets")?;
    let exists = || -> Result<bool, Error> {
        let sql = "SELECT id FROM storage.buckets WHERE id OPERATOR(pg_catalog.=) $1";
        Ok(!owner.texts("storage.buckets", sql, &[id.into()])?.is_empty())
    };
    if !exists()? {
        return Ok(step(component, SKIPPED, "there is none"));
    }
    let count = "SELECT pg_catalog.count(*) FROM storage.objects
                 WHERE bucket_id OPERATOR(pg_catalog.=) $1";
    let objects = owner_of("objects")?.texts("storage.objects", count, &[id.into()])?.concat();
    if objects != "0" {
        return Ok(step(component, KEPT, format!("it holds objects: {objects}")));
    }
    refuse_code_of_others(owner)?;
    // Storage's triggers refuse a DELETE in SQL unless this setting stands in an earlier statement.
    const ALLOW: &str = "storage.allow_delete_query";
    let set = "SELECT pg_catalog.set_config($1, $2, true)";
    let before =
        catalog::texts("SELECT pg_catalog.current_setting($1, true)", &[ALLOW.into()])?.concat();
    catalog::texts(set, &[ALLOW.into(), "true".into()])?;
    let delete = "DELETE FROM storage.buckets WHERE id OPERATOR(pg_catalog.=) $1";
    let deleted = owner.change("storage.buckets", delete, &[id.into()]);
    catalog::texts(set, &[ALLOW.into(), before.into()])?;
    Ok(match deleted {
        Err(error) => match error.downcast_ref() {
            Some(CatalogError::Refused { why, .. }) => {
                step(component, KEPT, format!("it cannot be removed: {why}"))
            }
            _ => return Err(error),
        },
        Ok(()) if exists()? => {
            step(component, KEPT, "a trigger or a rule of storage.buckets prevents its removal")
        }
        Ok(()) => step(component, REMOVED, "it was empty"),
    })
}
