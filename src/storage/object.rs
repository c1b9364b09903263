//! Rows of `storage.objects`, looked up with the rights of the current user, whose row security
//! decides what they see.

use once_cell::unsync::OnceCell;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement};

use super::bucket::ALL;
use crate::catalog;
use crate::error::Error;
use crate::pg::role::is_current_superuser;
use crate::pg::{Row, foreign};

/// The table's name in messages.
pub const TABLE: &str = "storage.objects";

/// A file that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub name: String,
    pub content_type: Option<String>,
    pub size: i64,
}

thread_local! {
    /// A failure to prepare it is not kept: the next call tries again.
    static EXISTS: OnceCell<OwnedPreparedStatement> = const { OnceCell::new() };
}

/// Reads with the rights of the current user. A superuser, who bypasses every policy, reads as the
/// owner of the table: planning a query runs constant expressions of the table's indexes, and a
/// comparison runs casts of its columns' types.
fn reading<R>(read: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    match is_current_superuser() {
        true => match owner()? {
            Some(owner) => foreign::run(owner, TABLE, foreign::LIMIT, read),
            None => read(),
        },
        false => read(),
    }
}

fn rows<R>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
    row: impl Fn(&Row<'_, '_>) -> Result<R, spi::Error>,
) -> Result<Vec<R>, Error> {
    reading(|| catalog::rows(sql, arguments, row))
}

/// Whether the current user sees this object. The plan is kept: planning would take most of the
/// time of a link.
pub fn exists(bucket: &str, name: &str) -> Result<bool, Error> {
    reading(|| read_exists(bucket, name))
}

fn read_exists(bucket: &str, name: &str) -> Result<bool, Error> {
    Spi::connect(|client| {
        EXISTS.with(|exists| {
            let exists = exists.get_or_try_init(|| {
                let sql = "SELECT FROM storage.objects o
                           WHERE o.bucket_id OPERATOR(pg_catalog.=) $1
                             AND o.name OPERATOR(pg_catalog.=) $2";
                let types = [pg_sys::TEXTOID.into(), pg_sys::TEXTOID.into()];
                Ok::<_, spi::Error>(client.prepare(sql, &types)?.keep())
            })?;
            let arguments: [DatumWithOid<'_>; 2] = [bucket.into(), name.into()];
            Ok(!client.select(exists, Some(1), &arguments)?.is_empty())
        })
    })
}

/// The file that this user has uploaded to a folder, `{tenant}/{id}/`, if the current user sees it;
/// the first one if there are several.
///
/// The Storage API adds the row after the file is stored, with its size and uploader. Older
/// versions record the uploader only in `owner`. Newer versions keep rows of deleted files. Columns
/// that a version lacks are looked up in the row's JSON. A file that the server has uploaded
/// belongs to no user.
pub fn uploaded_by(user_id: &str, bucket: &str, folder: &str) -> Result<Option<Object>, Error> {
    let start = format!("{folder}/");
    // '0' follows '/' in byte order.
    let end = format!("{folder}0");
    let found = rows(
        r#"SELECT o.name, o.metadata OPERATOR(pg_catalog.->>) 'mimetype',
                  (o.metadata OPERATOR(pg_catalog.->>) 'size')::pg_catalog.int8
           FROM storage.objects o
           WHERE o.bucket_id OPERATOR(pg_catalog.=) $1
             AND o.name COLLATE pg_catalog."C" OPERATOR(pg_catalog.>=) $2
             AND o.name COLLATE pg_catalog."C" OPERATOR(pg_catalog.<) $3
             AND o.metadata OPERATOR(pg_catalog.->>) 'size' OPERATOR(pg_catalog.~) '^[0-9]{1,18}$'
             AND pg_catalog.to_jsonb(o) OPERATOR(pg_catalog.->>) 'archived_at' IS NULL
             AND pg_catalog.to_jsonb(o) OPERATOR(pg_catalog.->>) 'is_delete_marker'
                     IS DISTINCT FROM 'true'
             AND COALESCE(pg_catalog.to_jsonb(o) OPERATOR(pg_catalog.->>) 'owner_id',
                          pg_catalog.to_jsonb(o) OPERATOR(pg_catalog.->>) 'owner')
                     OPERATOR(pg_catalog.=) $4
           ORDER BY o.created_at, o.name
           LIMIT 1"#,
        &[bucket.into(), start.into(), end.into(), user_id.into()],
        |row| {
            Ok(Object {
                name: row.get(1)?.unwrap_or_default(),
                content_type: row.get(2)?,
                size: row.get(3)?.unwrap_or_default(),
            })
        },
    )?;
    Ok(found.into_iter().next())
}

/// Whether the oldest file in this folder of any of our buckets belongs to another user, who then
/// owns the folder and its id. Considers the files that the current user sees.
pub fn is_anothers_folder(user_id: &str, folder: &str) -> Result<bool, Error> {
    let buckets: Vec<_> = ALL.iter().map(|bucket| bucket.id().to_owned()).collect();
    let first = rows(
        r#"SELECT COALESCE(pg_catalog.to_jsonb(o) OPERATOR(pg_catalog.->>) 'owner_id',
                           pg_catalog.to_jsonb(o) OPERATOR(pg_catalog.->>) 'owner')
           FROM storage.objects o
           WHERE o.bucket_id OPERATOR(pg_catalog.=) ANY ($1)
             AND o.name COLLATE pg_catalog."C" OPERATOR(pg_catalog.>=) $2
             AND o.name COLLATE pg_catalog."C" OPERATOR(pg_catalog.<) $3
           ORDER BY o.created_at, o.name
           LIMIT 1"#,
        &[buckets.into(), format!("{folder}/").into(), format!("{folder}0").into()],
        |row| row.get::<String>(1),
    )?;
    Ok(first.into_iter().next().is_some_and(|uploader| uploader.as_deref() != Some(user_id)))
}

/// The owner of the table of objects, to whom no policy applies.
pub fn owner() -> Result<Option<pg_sys::Oid>, Error> {
    let owners = catalog::rows(
        "SELECT c.relowner FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'storage' AND c.relname = 'objects'",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    Ok(owners.into_iter().flatten().next())
}
