//! Storage: buckets, row security, policies, index.

use pgrx::pg_sys;

use super::deadbolt;
use super::policy::{self, POLICIES};
use super::{ALREADY, DONE, KEPT, REMOVED, SKIPPED, Step, catalog, rights, step};
use crate::catalog::Owner;
use crate::error::Error;
use crate::storage::bucket::{ALL, Bucket};

/// The index that setup makes where Storage has none of the kind.
pub const INDEX: &str = "civic_objects_bucket_id_name";

pub const NO_STORAGE: &str = "there is no schema storage with tables buckets and objects";

/// Storage's two tables, each with its owner. By the catalog and not by name: a role without USAGE
/// on the schema shall be told what it lacks, not meet the server's own error.
macro_rules! storage_tables {
    () => {
        "pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'storage'
              AND c.relname IN ('buckets', 'objects') AND c.relkind IN ('r', 'p')"
    };
}

pub fn has_storage() -> Result<bool, Error> {
    catalog::holds(concat!("SELECT count(*) = 2 FROM ", storage_tables!()), &[])
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    SetUp,
    TearDown,
}

/// What the caller lacks to change Storage's tables, all of it in one list: the rights of their
/// owner, and what the owner itself lacks. Every statement runs as the owner.
pub fn missing_privileges(purpose: Purpose) -> Result<Vec<String>, Error> {
    if !has_storage()? {
        return Ok(vec![]);
    }
    let mut missing = catalog::texts(
        concat!(
            "SELECT pg_catalog.format('ownership of table storage.%I (its owner is %s)', c.relname,
                                      pg_catalog.pg_get_userbyid(c.relowner))
             FROM ",
            storage_tables!(),
            " WHERE NOT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE')
             ORDER BY c.relname"
        ),
        &[],
    )?;
    missing.extend(catalog::texts(
        concat!(
            "SELECT DISTINCT 'USAGE on schema storage' FROM ",
            storage_tables!(),
            " WHERE NOT pg_catalog.has_schema_privilege(c.relowner, n.oid, 'USAGE')"
        ),
        &[],
    )?);
    let privileges: &[&str] = match purpose {
        Purpose::SetUp => &["SELECT on buckets", "INSERT on buckets", "UPDATE on buckets"],
        Purpose::TearDown => &["SELECT on buckets", "DELETE on buckets", "SELECT on objects"],
    };
    missing.extend(catalog::texts(
        concat!(
            "SELECT p.privilege || ' on table storage.' || p.relname
             FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY w (wanted, place)
             CROSS JOIN LATERAL (SELECT pg_catalog.split_part(w.wanted, ' on ', 1),
                                        pg_catalog.split_part(w.wanted, ' on ', 2))
                        p (privilege, relname)
             JOIN ",
            storage_tables!(),
            " ON c.relname = p.relname
             WHERE NOT pg_catalog.has_table_privilege(c.relowner, c.oid, p.privilege)
             ORDER BY w.place"
        ),
        &[privileges.iter().map(|privilege| privilege.to_string()).collect::<Vec<_>>().into()],
    )?);
    missing.extend(catalog::texts(
        concat!(
            "SELECT pg_catalog.format('BYPASSRLS for %s, as row security is forced on storage.%I',
                                      r.rolname, c.relname)
             FROM ",
            storage_tables!(),
            " JOIN pg_catalog.pg_roles r
                   ON r.oid = c.relowner AND NOT r.rolsuper AND NOT r.rolbypassrls
             WHERE c.relrowsecurity AND c.relforcerowsecurity
             ORDER BY 1"
        ),
        &[],
    )?);
    if purpose == Purpose::SetUp && range_index()?.is_none() {
        missing.extend(catalog::texts(
            concat!(
                "SELECT 'CREATE on schema storage' FROM ",
                storage_tables!(),
                " WHERE c.relname = 'objects'
                    AND NOT pg_catalog.has_schema_privilege(c.relowner, n.oid, 'CREATE')"
            ),
            &[],
        )?);
    }
    missing.extend(deadbolt::missing_privileges(purpose)?);
    Ok(missing)
}

/// The columns that are read and written, where they are not of the types that Storage gives them:
/// another type's casts and operators are other people's code.
pub fn foreign_columns() -> Result<Vec<String>, Error> {
    catalog::texts(
        concat!(
            "SELECT pg_catalog.format('%I of storage.%I is %s', w.attname, c.relname,
                        coalesce(pg_catalog.format_type(a.atttypid, a.atttypmod), 'missing'))
             FROM (VALUES ('buckets', 'id'), ('buckets', 'name'), ('buckets', 'public'),
                          ('objects', 'bucket_id'), ('objects', 'name')) w (relname, attname)
             JOIN ",
            storage_tables!(),
            " ON c.relname = w.relname
             LEFT JOIN pg_catalog.pg_attribute a
                    ON a.attrelid = c.oid AND a.attname = w.attname AND NOT a.attisdropped
             WHERE CASE w.attname
                   WHEN 'public' THEN a.atttypid = 'pg_catalog.bool'::pg_catalog.regtype
                   ELSE a.atttypid IN ('pg_catalog.text'::pg_catalog.regtype,
                                       'pg_catalog.varchar'::pg_catalog.regtype) END IS NOT TRUE
             ORDER BY c.relname, w.attname"
        ),
        &[],
    )
}

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

/// Where a superuser owns storage.buckets, and a trigger, a default or a constraint on it calls a
/// function of another role, which would get a superuser's rights.
fn refuse_code_of_others(owner: Owner) -> Result<(), Error> {
    if !owner.is_superuser() {
        return Ok(());
    }
    let found = catalog::rows(
        concat!(
            "SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text, r.rolname::pg_catalog.text
             FROM ",
            storage_tables!(),
            " CROSS JOIN LATERAL (
                 SELECT t.tgfoid FROM pg_catalog.pg_trigger t
                 WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                 UNION
                 SELECT d.refobjid FROM pg_catalog.pg_depend d
                 WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                   AND (d.classid, d.objid) IN (
                     SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, x.oid
                     FROM pg_catalog.pg_attrdef x WHERE x.adrelid = c.oid
                     UNION ALL
                     SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, x.oid
                     FROM pg_catalog.pg_constraint x
                     WHERE x.conrelid = c.oid
                        OR x.contypid IN (SELECT a.atttypid FROM pg_catalog.pg_attribute a
                                          WHERE a.attrelid = c.oid)
                     UNION ALL
                     SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, x.oid
                     FROM pg_catalog.pg_rewrite x WHERE x.ev_class = c.oid
                     UNION ALL
                     SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, x.indexrelid
                     FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid)
             ) f (oid)
             JOIN pg_catalog.pg_proc p ON p.oid = f.oid
             JOIN pg_catalog.pg_roles r ON r.oid = p.proowner AND NOT r.rolsuper
             WHERE c.relname = 'buckets'
             ORDER BY 1"
        ),
        &[],
        |row| Ok((row.get::<String>(1)?, row.get::<String>(2)?)),
    )?;
    match found.into_iter().next() {
        None => Ok(()),
        Some((function, role)) => Err(Error::WouldRunAsSuperuser {
            what: "a change of table storage.buckets".to_owned(),
            function: function.unwrap_or_default(),
            owner: role.unwrap_or_default(),
            remedy:
                "Give the table to a role that is no superuser, as Supabase Storage does: ALTER \
                     TABLE storage.buckets OWNER TO supabase_storage_admin;"
                    .to_owned(),
        }),
    }
}

fn owner_of(table: &str) -> Result<Owner, Error> {
    let missing = || Error::Catalog { why: format!("there is no table storage.{table}") };
    Owner::of_table("storage", table)?.ok_or_else(missing)
}

pub fn set_up() -> Result<Vec<Step>, Error> {
    if !has_storage()? {
        return Ok(vec![step("storage", SKIPPED, NO_STORAGE)]);
    }
    let foreign = foreign_columns()?;
    if !foreign.is_empty() {
        return Err(Error::StorageColumns { found: foreign });
    }
    let owner = owner_of("buckets")?;
    refuse_code_of_others(owner)?;
    let mut steps = vec![];
    for bucket in ALL {
        steps.push(set_up_bucket(owner, bucket)?);
    }
    for table in ["buckets", "objects"] {
        steps.push(enable_row_security(table)?);
    }
    steps.push(deadbolt::set_up()?);
    steps.extend(policy::set_up(&POLICIES)?);
    // Last, so that no moment is without a policy for whoever looks from another session.
    for name in policy::left_by_migrations()? {
        policy::drop_policy("storage", "objects", &name)?;
        let component = format!("policy \"{name}\" on storage.objects");
        steps.push(step(component, REMOVED, "of the application's migrations, replaced"));
    }
    steps.push(set_up_index()?);
    steps.extend(rights::set_up("storage")?);
    Ok(steps)
}

fn set_up_bucket(owner: Owner, bucket: Bucket) -> Result<Step, Error> {
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

pub fn has_row_security(table: &str) -> Result<bool, Error> {
    catalog::holds(
        concat!("SELECT c.relrowsecurity FROM ", storage_tables!(), " WHERE c.relname = $1"),
        &[table.into()],
    )
}

fn enable_row_security(table: &str) -> Result<Step, Error> {
    let component = format!("row security of storage.{table}");
    if has_row_security(table)? {
        return Ok(step(component, ALREADY, "enabled"));
    }
    let enable = format!("ALTER TABLE storage.{table} ENABLE ROW LEVEL SECURITY");
    owner_of(table)?.execute(&enable, &[])?;
    Ok(step(component, DONE, "enabled"))
}

/// A valid index whose first columns are bucket_id and name in byte order, under the operators of
/// the read rule (text_pattern_ops has others): what makes a folder a range.
pub fn range_index() -> Result<Option<String>, Error> {
    let found = catalog::texts(
        concat!(
            "SELECT i.indexrelid::pg_catalog.regclass
             FROM ",
            storage_tables!(),
            " JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
             JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
             JOIN pg_catalog.pg_am a ON a.oid = x.relam AND a.amname = 'btree'
             JOIN pg_catalog.pg_opfamily f ON f.opfmethod = a.oid AND f.opfname = 'text_ops'
                  AND f.opfnamespace = 'pg_catalog'::pg_catalog.regnamespace
             JOIN pg_catalog.pg_opclass o0 ON o0.oid = i.indclass[0] AND o0.opcfamily = f.oid
             JOIN pg_catalog.pg_opclass o1 ON o1.oid = i.indclass[1] AND o1.opcfamily = f.oid
             JOIN pg_catalog.pg_attribute a0 ON a0.attrelid = c.oid AND a0.attname = 'bucket_id'
             JOIN pg_catalog.pg_attribute a1 ON a1.attrelid = c.oid AND a1.attname = 'name'
             WHERE c.relname = 'objects'
               AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts >= 2
               AND i.indkey[0] = a0.attnum AND i.indkey[1] = a1.attnum
               AND i.indcollation[0] = a0.attcollation
               AND i.indcollation[1] = 'pg_catalog.\"C\"'::pg_catalog.regcollation
             ORDER BY x.relname"
        ),
        &[],
    )?;
    Ok(found.into_iter().next())
}

/// Whether there is an index of the name that setup gives to its own.
pub fn has_own_index() -> Result<bool, Error> {
    catalog::holds(
        concat!(
            "SELECT EXISTS (SELECT FROM ",
            storage_tables!(),
            " JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
             JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
             WHERE c.relname = 'objects' AND x.relname = $1)"
        ),
        &[INDEX.into()],
    )
}

fn set_up_index() -> Result<Step, Error> {
    let component = "index on (bucket_id, name COLLATE \"C\")";
    if let Some(index) = range_index()? {
        return Ok(step(component, ALREADY, index));
    }
    // What CREATE INDEX CONCURRENTLY left where it failed is invalid, and holds the name.
    if has_own_index()? {
        owner_of("objects")?.execute(&format!("DROP INDEX storage.{INDEX}"), &[])?;
    }
    owner_of("objects")?.execute(
        &format!(
            "CREATE INDEX {INDEX} ON storage.objects (bucket_id, name COLLATE pg_catalog.\"C\")"
        ),
        &[],
    )?;
    Ok(step(component, DONE, format!("this Storage lacks it: created as storage.{INDEX}")))
}

pub fn tear_down() -> Result<Vec<Step>, Error> {
    if !has_storage()? {
        return Ok(vec![step("storage", SKIPPED, NO_STORAGE)]);
    }
    let mut steps = policy::tear_down(&POLICIES)?;
    steps.push(deadbolt::tear_down()?);
    steps.extend(rights::tear_down("storage")?);
    if has_own_index()? {
        owner_of("objects")?.execute(&format!("DROP INDEX storage.{INDEX}"), &[])?;
        steps.push(step(format!("index storage.{INDEX}"), REMOVED, "dropped"));
    }
    for bucket in ALL {
        steps.push(tear_down_bucket(bucket)?);
    }
    Ok(steps)
}

/// Removes a bucket that holds nothing. One that cannot be removed is kept.
fn tear_down_bucket(bucket: Bucket) -> Result<Step, Error> {
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
        Err(Error::Refused { why, .. }) => {
            step(component, KEPT, format!("it cannot be removed: {why}"))
        }
        Err(error) => return Err(error),
        Ok(()) if exists()? => {
            step(component, KEPT, "a trigger or a rule of storage.buckets prevents its removal")
        }
        Ok(()) => step(component, REMOVED, "it was empty"),
    })
}
