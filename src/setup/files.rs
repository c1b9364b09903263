//! Storage: row security, policies, index, and the order of all steps.

use super::firewall;
use super::policy::{self, POLICIES};
use super::{ALREADY, DONE, REMOVED, SKIPPED, Step, buckets, catalog, rights, step};
use crate::catalog::Owner;
use crate::error::Error;
use crate::pg;
use crate::setup::SetupError;

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
pub(super) use storage_tables;

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

pub fn owner_of(table: &str) -> Result<Owner, Error> {
    let missing = || pg::Error::Catalog { why: format!("there is no table storage.{table}") };
    Ok(Owner::of_table("storage", table)?.ok_or_else(missing)?)
}

pub fn set_up() -> Result<Vec<Step>, Error> {
    if !has_storage()? {
        return Ok(vec![step("storage", SKIPPED, NO_STORAGE)]);
    }
    let foreign = foreign_columns()?;
    if !foreign.is_empty() {
        return Err(SetupError::StorageColumns { found: foreign }.into());
    }
    let mut steps = buckets::set_up()?;
    for table in ["buckets", "objects"] {
        steps.push(enable_row_security(table)?);
    }
    steps.extend(firewall::set_up(&firewall::OBJECTS)?);
    steps.extend(policy::set_up(&POLICIES)?);
    steps.extend(firewall::remove_former("storage", "objects")?);
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
    steps.extend(firewall::tear_down(&firewall::OBJECTS)?);
    steps.extend(rights::tear_down("storage")?);
    if has_own_index()? {
        owner_of("objects")?.execute(&format!("DROP INDEX storage.{INDEX}"), &[])?;
        steps.push(step(format!("index storage.{INDEX}"), REMOVED, "dropped"));
    }
    steps.extend(buckets::tear_down()?);
    Ok(steps)
}
