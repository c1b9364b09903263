//! Supabase Storage: the buckets, row security, functions, policies, index and rights of its tables.

use pgrx::pg_sys::Oid;

use super::SetupError;
use super::firewall::OBJECT_FUNCTIONS;
use super::plan::{
    Component, Components, DONE, KEPT, REMOVED, SETUP, SKIPPED, Skipped, State, Step, boxed, step,
    unneeded,
};
use super::policy::{Migrated, POLICIES};
use super::privileges::{self, BUCKETS, CREATE_ON_SCHEMA, Needed, OBJECTS};
use super::relation::{Relation, RowSecurity};
use super::rights::Rights;
use crate::catalog::CatalogError;
use crate::catalog::{self, Change};
use crate::error::Error;
use crate::pg;
use crate::storage::bucket::ALL;

const NO_STORAGE: &str = "there is no schema storage with tables buckets and objects";

/// Storage's two tables.
#[derive(Clone)]
struct Storage {
    buckets: Relation,
    objects: Relation,
}

/// `None` unless both exist.
fn storage() -> Result<Option<Storage>, Error> {
    let buckets = Relation::named(BUCKETS.schema, BUCKETS.table)?;
    let objects = Relation::named(OBJECTS.schema, OBJECTS.table)?;
    Ok(buckets.zip(objects).map(|(buckets, objects)| Storage { buckets, objects }))
}

pub fn exists() -> Result<bool, Error> {
    Ok(storage()?.is_some())
}

/// What one of the two functions needs of [`BUCKETS`] and [`OBJECTS`].
pub fn missing_privileges(needed: fn(&Needed) -> &[&'static str]) -> Result<Vec<String>, Error> {
    let Some(Storage { buckets, objects }) = storage()? else { return Ok(vec![]) };
    let mut missing = privileges::missing(&buckets, needed(&BUCKETS), BUCKETS.uses_rows)?;
    let mut on_objects = needed(&OBJECTS).to_vec();
    if Indexes::find(objects.oid)?.range.is_some() {
        on_objects.retain(|privilege| *privilege != CREATE_ON_SCHEMA);
    }
    missing.extend(privileges::missing(&objects, &on_objects, OBJECTS.uses_rows)?);
    Ok(missing)
}

/// Errors: 42804 if a column has another type than Storage gives it; 55000 if a superuser owns
/// storage.buckets, and a change of it would run code of another role.
pub fn refuse_traps() -> Result<(), Error> {
    let Some(storage) = storage()? else { return Ok(()) };
    let found = foreign_columns()?;
    if !found.is_empty() {
        return Err(SetupError::StorageColumns { found }.into());
    }
    storage.refuse_code_of_others()
}

impl Storage {
    fn refuse_code_of_others(&self) -> Result<(), Error> {
        let owner = self.buckets.owner()?;
        owner.refuse_code_of_others(self.buckets.oid, "storage.buckets", Change::Any)
    }
}

/// In the order of creation.
pub fn components() -> Result<Components, Error> {
    let Some(storage) = storage()? else { return Ok(vec![unneeded("storage", NO_STORAGE)]) };
    let foreign = match foreign_columns() {
        // The name of a type must not hide the other components.
        Err(error) => match error.downcast_ref() {
            Some(pg::Error::InvalidText(why)) => why.to_string(),
            _ => return Err(error),
        },
        Ok(found) => found.join(", "),
    };
    let mut components = if foreign.is_empty() {
        boxed(ALL.map(|bucket| Bucket { id: bucket.id(), storage: storage.clone() }))
    } else {
        let detail = format!("{foreign}: not as Storage creates them, so the buckets are not read");
        boxed([Skipped("columns of Storage's tables".to_owned(), State::Unknown(detail))])
    };
    let Storage { buckets, objects } = storage;
    components.extend(boxed([RowSecurity(buckets), RowSecurity(objects.clone())]));
    components.extend(boxed(OBJECT_FUNCTIONS));
    components.extend(boxed(POLICIES));
    components.extend(boxed(Migrated::find()?));
    components.extend(boxed([Index(objects)]));
    components.extend(boxed([Rights("storage")]));
    Ok(components)
}

/// The columns that are read and written, if they are not of the types that Storage gives them: another
/// type's casts and operators are other people's code.
fn foreign_columns() -> Result<Vec<String>, Error> {
    catalog::texts(
        "SELECT pg_catalog.format('%I of storage.%I is %s', w.attname, c.relname,
                    coalesce(pg_catalog.format_type(a.atttypid, a.atttypmod), 'missing'))
         FROM (VALUES ('buckets', 'id'), ('buckets', 'name'), ('buckets', 'public'),
                      ('objects', 'bucket_id'), ('objects', 'name')) w (relname, attname)
         JOIN pg_catalog.pg_namespace n ON n.nspname = 'storage'
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname
         LEFT JOIN pg_catalog.pg_attribute a
                ON a.attrelid = c.oid AND a.attname = w.attname AND NOT a.attisdropped
         WHERE CASE w.attname
               WHEN 'public' THEN a.atttypid = 'pg_catalog.bool'::pg_catalog.regtype
               ELSE a.atttypid IN ('pg_catalog.text'::pg_catalog.regtype,
                                   'pg_catalog.varchar'::pg_catalog.regtype) END IS NOT TRUE
         ORDER BY c.relname, w.attname",
        &[],
    )
}

/// A private bucket. Its row is changed as the owner of storage.buckets.
struct Bucket {
    id: &'static str,
    storage: Storage,
}

impl Bucket {
    /// Whether the bucket is public, read with rights that see every row: `true`, `false` or no row.
    /// `None` if the caller has no such rights. The columns have Storage's types, so with the caller's
    /// own rights no code of others runs.
    fn is_public(&self) -> Result<Option<Vec<String>>, Error> {
        let reader = catalog::texts(
            "SELECT CASE
                 WHEN pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE')
                      AND (r.rolsuper OR r.rolbypassrls
                           OR NOT (c.relrowsecurity AND c.relforcerowsecurity))
                 THEN 'owner'
                 WHEN pg_catalog.has_schema_privilege(current_user, c.relnamespace, 'USAGE')
                      AND pg_catalog.has_table_privilege(current_user, c.oid, 'SELECT')
                      AND NOT pg_catalog.row_security_active(c.oid)
                      -- Never with a superuser's rights: a plan runs expressions of indexes.
                      AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles s
                                      WHERE s.rolname = current_user AND s.rolsuper)
                 THEN 'caller' END
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
             WHERE c.oid = $1",
            &[self.storage.buckets.oid.into()],
        )?;
        let sql = "SELECT coalesce(public, false) FROM storage.buckets
                   WHERE id OPERATOR(pg_catalog.=) $1";
        Ok(match reader.concat().as_str() {
            "owner" => {
                let owner = self.storage.buckets.owner()?;
                Some(owner.texts("storage.buckets", sql, &[self.id.into()])?)
            }
            "caller" => Some(catalog::texts(sql, &[self.id.into()])?),
            _ => None,
        })
    }

    /// Deletes the row. `Err(why)` if that is refused.
    fn delete(&self) -> Result<Result<(), String>, Error> {
        // Storage's triggers refuse a DELETE in SQL unless an earlier statement has set this.
        const ALLOW: &str = "storage.allow_delete_query";
        let set = "SELECT pg_catalog.set_config($1, $2, true)";
        let before =
            catalog::texts("SELECT pg_catalog.current_setting($1, true)", &[ALLOW.into()])?
                .concat();
        catalog::texts(set, &[ALLOW.into(), "true".into()])?;
        let delete = "DELETE FROM storage.buckets WHERE id OPERATOR(pg_catalog.=) $1";
        let deleted =
            self.storage.buckets.owner()?.change("storage.buckets", delete, &[self.id.into()]);
        catalog::texts(set, &[ALLOW.into(), before.into()])?;
        match deleted {
            Ok(()) => Ok(Ok(())),
            Err(error) => match error.downcast_ref() {
                Some(CatalogError::Refused { why, .. }) => Ok(Err(why.clone())),
                _ => Err(error),
            },
        }
    }
}

impl Component for Bucket {
    fn name(&self) -> String {
        format!("bucket {}", self.id)
    }

    fn state(&self) -> Result<State, Error> {
        let Some(found) = self.is_public()? else {
            let detail = "hidden from this role: call check() as the owner of storage.buckets";
            return Ok(State::Unknown(detail.to_owned()));
        };
        Ok(match found.first().map(String::as_str) {
            None => State::Missing("missing".to_owned()),
            Some("false") => State::Installed("private".to_owned()),
            Some(_) => State::Different(
                "public: anyone who knows the address of a file can read it".to_owned(),
            ),
        })
    }

    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        let (statement, done) = if was.is_missing() {
            (
                "INSERT INTO storage.buckets (id, name, public) VALUES ($1, $1, false)",
                "created, private",
            )
        } else {
            (
                "UPDATE storage.buckets SET public = false WHERE id OPERATOR(pg_catalog.=) $1",
                "was public, made private",
            )
        };
        let owner = self.storage.buckets.owner()?;
        owner.change("storage.buckets", statement, &[self.id.into()])?;
        Ok(vec![match self.state()? {
            State::Installed(_) => step(self.name(), DONE, done),
            _ => step(self.name(), SKIPPED, "a trigger or a rule of storage.buckets prevents it"),
        }])
    }

    /// Removes a bucket without objects, and keeps any other.
    fn remove(&self) -> Result<Vec<Step>, Error> {
        let kept = |why: String| Ok(vec![step(self.name(), KEPT, why)]);
        let count = "SELECT pg_catalog.count(*) FROM storage.objects
                     WHERE bucket_id OPERATOR(pg_catalog.=) $1";
        let owner = self.storage.objects.owner()?;
        let objects = owner.texts("storage.objects", count, &[self.id.into()])?.concat();
        if objects != "0" {
            return kept(format!("contains {objects} objects"));
        }
        self.storage.refuse_code_of_others()?;
        if let Err(why) = self.delete()? {
            return kept(format!("cannot be removed: {why}"));
        }
        if !self.state()?.is_missing() {
            return kept("a trigger or a rule of storage.buckets prevents its removal".to_owned());
        }
        Ok(vec![step(self.name(), REMOVED, "was empty")])
    }
}

/// The index that makes a folder a range: `setup()` creates one if Storage has none.
struct Index(Relation);

const INDEX: &str = "civic_objects_bucket_id_name";

struct Indexes {
    /// A valid index whose first columns are bucket_id and name in byte order, under the operators of the
    /// read rule (text_pattern_ops has others).
    range: Option<String>,
    /// Whether an index has the name that `setup()` gives to its index.
    has_own: bool,
}

impl Indexes {
    fn find(objects: Oid) -> Result<Indexes, Error> {
        let found = catalog::rows(
            "SELECT i.indexrelid::pg_catalog.regclass::pg_catalog.text, x.relname = $2,
                    i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts >= 2
                    AND i.indcollation[1] = 'pg_catalog.\"C\"'::pg_catalog.regcollation
                    AND EXISTS (
                        SELECT FROM pg_catalog.pg_attribute a0, pg_catalog.pg_attribute a1
                        WHERE a0.attrelid = i.indrelid AND a0.attname = 'bucket_id'
                          AND a0.attnum = i.indkey[0] AND a0.attcollation = i.indcollation[0]
                          AND a1.attrelid = i.indrelid AND a1.attname = 'name'
                          AND a1.attnum = i.indkey[1])
                    AND (SELECT pg_catalog.bool_and(
                                    a.amname = 'btree' AND f.opfname = 'text_ops'
                                    AND f.opfnamespace = 'pg_catalog'::pg_catalog.regnamespace)
                         FROM pg_catalog.pg_opclass o
                         JOIN pg_catalog.pg_opfamily f ON f.oid = o.opcfamily
                         JOIN pg_catalog.pg_am a ON a.oid = f.opfmethod
                         WHERE o.oid IN (i.indclass[0], i.indclass[1]))
             FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
             WHERE i.indrelid = $1
             ORDER BY x.relname",
            &[objects.into(), INDEX.into()],
            |row| {
                let (is_own, is_range) = (row.get::<bool>(2)?, row.get::<bool>(3)?);
                Ok((row.get::<String>(1)?, is_own == Some(true), is_range == Some(true)))
            },
        )?;
        let range = found.iter().find(|(_, _, is_range)| *is_range);
        Ok(Indexes {
            range: range.and_then(|(name, ..)| name.clone()),
            has_own: found.iter().any(|(_, is_own, _)| *is_own),
        })
    }
}

impl Component for Index {
    fn name(&self) -> String {
        "index on (bucket_id, name COLLATE \"C\")".to_owned()
    }

    fn state(&self) -> Result<State, Error> {
        let Indexes { range, has_own } = Indexes::find(self.0.oid)?;
        Ok(match range {
            Some(index) => State::Installed(index),
            // CREATE INDEX CONCURRENTLY leaves an invalid one of the name where it fails.
            None if has_own => State::Different(format!("{INDEX} is invalid, or another index")),
            None => {
                State::Missing("missing: every read scans the objects of every municipality".into())
            }
        })
    }

    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        if !was.is_missing() {
            self.0.execute(&format!("DROP INDEX storage.{INDEX}"))?;
        }
        self.0.execute(&format!(
            "CREATE INDEX {INDEX} ON storage.objects (bucket_id, name COLLATE pg_catalog.\"C\")"
        ))?;
        Ok(vec![step(self.name(), DONE, format!("created as storage.{INDEX}"))])
    }

    fn remove(&self) -> Result<Vec<Step>, Error> {
        if !Indexes::find(self.0.oid)?.has_own {
            return Ok(vec![]);
        }
        self.0.execute(&format!("DROP INDEX storage.{INDEX}"))?;
        Ok(vec![step(format!("index storage.{INDEX}"), REMOVED, "dropped")])
    }

    fn fix(&self, state: &State) -> String {
        if !state.is_missing() {
            return SETUP.to_owned();
        }
        format!(
            "CREATE INDEX CONCURRENTLY {INDEX} ON storage.objects
                 (bucket_id, name COLLATE pg_catalog.\"C\");"
        )
    }
}
