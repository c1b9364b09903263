//! Storage: buckets, row security, policies, index.

use super::policy::{self, POLICIES, State};
use super::{ALREADY, DONE, KEPT, REMOVED, SKIPPED, Step, catalog, step};
use crate::error::Error;
use crate::storage::bucket::{ALL, Bucket};

/// The index that setup makes where Storage has none of the kind.
pub const INDEX: &str = "civic_objects_bucket_id_name";

const NO_STORAGE: &str = "there is no schema storage with tables buckets and objects";

pub fn has_storage() -> Result<bool, Error> {
    catalog::holds(
        "SELECT pg_catalog.to_regclass('storage.objects') IS NOT NULL
            AND pg_catalog.to_regclass('storage.buckets') IS NOT NULL",
        &[],
    )
}

pub fn has_role(role: &str) -> Result<bool, Error> {
    catalog::holds(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)",
        &[role.into()],
    )
}

/// What the caller lacks to change Storage's tables. They are asked for together, so that nobody
/// mends one and meets the next.
pub fn missing_privileges() -> Result<Vec<String>, Error> {
    if !has_storage()? {
        return Ok(vec![]);
    }
    catalog::texts(
        "SELECT pg_catalog.format('ownership of table storage.%I (its owner is %s)', relname,
                                  pg_catalog.pg_get_userbyid(relowner))
         FROM pg_catalog.pg_class
         WHERE oid IN (pg_catalog.to_regclass('storage.objects'),
                       pg_catalog.to_regclass('storage.buckets'))
           AND NOT pg_catalog.pg_has_role(current_user, relowner, 'USAGE')
         ORDER BY relname",
        &[],
    )
}

pub fn set_up() -> Result<Vec<Step>, Error> {
    if !has_storage()? {
        return Ok(vec![step("storage", SKIPPED, NO_STORAGE)]);
    }
    let mut steps = vec![];
    for bucket in ALL {
        steps.push(set_up_bucket(bucket)?);
    }
    for table in ["buckets", "objects"] {
        steps.push(enable_row_security(table)?);
    }
    let has_authenticated = has_role(policy::AUTHENTICATED)?;
    for policy in &POLICIES {
        if policy.role == policy::AUTHENTICATED && !has_authenticated {
            steps.push(step(policy.component(), SKIPPED, "there is no role authenticated"));
            continue;
        }
        let state = policy.state()?;
        if state == State::Different {
            policy.drop()?;
        }
        if state != State::Installed {
            policy.create()?;
        }
        steps.push(match state {
            State::Installed => step(policy.component(), ALREADY, "as pg_civic makes it"),
            State::Missing => step(policy.component(), DONE, "created"),
            State::Different => step(policy.component(), DONE, "was another, created anew"),
        });
    }
    // Last, so that no moment is without a policy for whoever looks from another session.
    for name in policy::left_by_migrations()? {
        policy::drop_policy("objects", &name)?;
        let component = format!("policy \"{name}\" on storage.objects");
        steps.push(step(component, REMOVED, "of the application's migrations, replaced"));
    }
    steps.push(set_up_index()?);
    Ok(steps)
}

fn set_up_bucket(bucket: Bucket) -> Result<Step, Error> {
    let id = bucket.id();
    let component = format!("bucket {id}");
    let is_public = catalog::texts(
        "SELECT coalesce(public, false) FROM storage.buckets WHERE id = $1",
        &[id.into()],
    )?;
    match is_public.first().map(String::as_str) {
        None => {
            catalog::execute(
                "INSERT INTO storage.buckets (id, name, public) VALUES ($1, $1, false)",
                &[id.into()],
            )?;
            Ok(step(component, DONE, "created, private"))
        }
        Some("true") => {
            catalog::execute(
                "UPDATE storage.buckets SET public = false WHERE id = $1",
                &[id.into()],
            )?;
            Ok(step(component, DONE, "was public, made private"))
        }
        Some(_) => Ok(step(component, ALREADY, "private")),
    }
}

pub fn has_row_security(table: &str) -> Result<bool, Error> {
    catalog::holds(
        "SELECT relrowsecurity FROM pg_catalog.pg_class
         WHERE oid = pg_catalog.to_regclass('storage.' || $1)",
        &[table.into()],
    )
}

fn enable_row_security(table: &str) -> Result<Step, Error> {
    let component = format!("row security of storage.{table}");
    if has_row_security(table)? {
        return Ok(step(component, ALREADY, "enabled"));
    }
    catalog::execute(&format!("ALTER TABLE storage.{table} ENABLE ROW LEVEL SECURITY"), &[])?;
    Ok(step(component, DONE, "enabled"))
}

/// A valid index whose first columns are bucket_id and name in byte order: what makes a folder a
/// range.
pub fn range_index() -> Result<Option<String>, Error> {
    let found = catalog::texts(
        "SELECT i.indexrelid::pg_catalog.regclass
         FROM pg_catalog.pg_index i
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
         JOIN pg_catalog.pg_am a ON a.oid = c.relam AND a.amname = 'btree'
         JOIN pg_catalog.pg_attribute b ON b.attrelid = i.indrelid AND b.attname = 'bucket_id'
         JOIN pg_catalog.pg_attribute n ON n.attrelid = i.indrelid AND n.attname = 'name'
         WHERE i.indrelid = pg_catalog.to_regclass('storage.objects')
           AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts >= 2
           AND i.indkey[0] = b.attnum AND i.indkey[1] = n.attnum
           AND i.indcollation[1] = 'pg_catalog.\"C\"'::pg_catalog.regcollation
         ORDER BY c.relname",
        &[],
    )?;
    Ok(found.into_iter().next())
}

fn set_up_index() -> Result<Step, Error> {
    let component = "index on (bucket_id, name COLLATE \"C\")";
    if let Some(index) = range_index()? {
        return Ok(step(component, ALREADY, index));
    }
    catalog::execute(
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
    let mut steps = vec![];
    for policy in &POLICIES {
        if policy.state()? == State::Missing {
            steps.push(step(policy.component(), SKIPPED, "there is none"));
        } else {
            policy.drop()?;
            steps.push(step(policy.component(), REMOVED, "dropped"));
        }
    }
    let has_index = "SELECT pg_catalog.to_regclass('storage.' || $1) IS NOT NULL";
    if catalog::holds(has_index, &[INDEX.into()])? {
        catalog::execute(&format!("DROP INDEX storage.{INDEX}"), &[])?;
        steps.push(step(format!("index storage.{INDEX}"), REMOVED, "dropped"));
    }
    for bucket in ALL {
        steps.push(tear_down_bucket(bucket)?);
    }
    Ok(steps)
}

fn tear_down_bucket(bucket: Bucket) -> Result<Step, Error> {
    let id = bucket.id();
    let component = format!("bucket {id}");
    let exists = "SELECT EXISTS (SELECT FROM storage.buckets WHERE id = $1)";
    if !catalog::holds(exists, &[id.into()])? {
        return Ok(step(component, SKIPPED, "there is none"));
    }
    let objects =
        catalog::texts("SELECT count(*) FROM storage.objects WHERE bucket_id = $1", &[id.into()])?
            .concat();
    if objects != "0" {
        return Ok(step(component, KEPT, format!("it holds objects: {objects}")));
    }
    // Storage's triggers refuse a DELETE in SQL unless this setting stands in an earlier statement.
    const ALLOW: &str = "storage.allow_delete_query";
    let set = "SELECT pg_catalog.set_config($1, $2, true)";
    let before =
        catalog::texts("SELECT pg_catalog.current_setting($1, true)", &[ALLOW.into()])?.concat();
    catalog::texts(set, &[ALLOW.into(), "true".into()])?;
    catalog::execute("DELETE FROM storage.buckets WHERE id = $1", &[id.into()])?;
    catalog::texts(set, &[ALLOW.into(), before.into()])?;
    Ok(step(component, REMOVED, "it was empty"))
}
