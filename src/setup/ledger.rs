//! What `setup()` has changed outside the extension, so that `teardown()` undoes it: granted and revoked
//! privileges (`civic.changed_privileges`), and what a publication publishes
//! (`civic.changed_publications`).

use pgrx::datum::DatumWithOid;
use pgrx::spi::quote_identifier;

use crate::catalog;
use crate::error::Error;
use crate::pg::Row;

/// One privilege on one object, as one role has granted it to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privilege {
    pub schema: String,
    pub object: String,
    /// Empty for the whole object.
    pub column: String,
    pub privilege: String,
    /// A role's name, or `public`.
    pub grantee: String,
    pub grantor: String,
    pub is_grantable: bool,
}

impl Privilege {
    /// Of columns in the order of the fields.
    pub fn read(row: &Row<'_, '_>) -> Result<Privilege, pgrx::spi::Error> {
        Ok(Privilege {
            schema: row.get(1)?.unwrap_or_default(),
            object: row.get(2)?.unwrap_or_default(),
            column: row.get(3)?.unwrap_or_default(),
            privilege: row.get(4)?.unwrap_or_default(),
            grantee: row.get(5)?.unwrap_or_default(),
            grantor: row.get(6)?.unwrap_or_default(),
            is_grantable: row.get(7)?.unwrap_or_default(),
        })
    }

    /// The key of the table.
    fn key(&self) -> [DatumWithOid<'_>; 6] {
        let Privilege { schema, object, column, privilege, grantee, grantor, .. } = self;
        [schema, object, column, privilege, grantee, grantor].map(|text| text.as_str().into())
    }

    /// The table, qualified and quoted.
    pub fn table(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.object))
    }

    /// `TRUNCATE`, or `REFERENCES (name)` of one column.
    pub fn what(&self) -> String {
        match self.column.as_str() {
            "" => self.privilege.clone(),
            column => format!("{} ({})", self.privilege, quote_identifier(column)),
        }
    }

    /// As GRANT and REVOKE take it.
    pub fn role(&self) -> String {
        match self.grantee.as_str() {
            "public" => "PUBLIC".to_owned(),
            role => quote_identifier(role),
        }
    }

    /// `TRUNCATE on storage.objects of anon`.
    pub fn description(&self) -> String {
        format!("{} on {} of {}", self.what(), self.table(), self.role())
    }

    pub fn revoke_statement(&self) -> String {
        format!("REVOKE {} ON TABLE {} FROM {} CASCADE", self.what(), self.table(), self.role())
    }

    pub fn grant_statement(&self) -> String {
        let option = if self.is_grantable { " WITH GRANT OPTION" } else { "" };
        format!("GRANT {} ON TABLE {} TO {}{option}", self.what(), self.table(), self.role())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Granted,
    Revoked,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Change::Granted => "granted",
            Change::Revoked => "revoked",
        }
    }
}

const TABLE: &str = "changed_privileges";

/// Records a change. The first record of a privilege stays.
pub fn record(change: Change, privilege: &Privilege) -> Result<(), Error> {
    let insert = "INSERT INTO civic.changed_privileges
             (object_schema, object_name, column_name, privilege, grantee, grantor, change,
              is_grantable)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT DO NOTHING";
    let mut arguments = Vec::from(privilege.key());
    arguments.extend([change.name().into(), privilege.is_grantable.into()]);
    catalog::with_own_table(TABLE, || catalog::update(insert, &arguments)).map(|_| ())
}

/// What was recorded, in an order in which it can be granted again: what the owner had granted first.
pub fn recorded(change: Change) -> Result<Vec<Privilege>, Error> {
    let select =
        "SELECT object_schema, object_name, column_name, privilege, grantee, grantor, is_grantable
         FROM civic.changed_privileges
         WHERE change OPERATOR(pg_catalog.=) $1
         ORDER BY object_schema, object_name, column_name, is_grantable DESC, grantee, privilege";
    let read = || catalog::rows(select, &[change.name().into()], Privilege::read);
    Ok(catalog::with_own_table(TABLE, read)?.unwrap_or_default())
}

/// Removes the record of a change that has been undone.
pub fn forget(privilege: &Privilege) -> Result<(), Error> {
    let delete = "DELETE FROM civic.changed_privileges
         WHERE object_schema OPERATOR(pg_catalog.=) $1 AND object_name OPERATOR(pg_catalog.=) $2
           AND column_name OPERATOR(pg_catalog.=) $3 AND privilege OPERATOR(pg_catalog.=) $4
           AND grantee OPERATOR(pg_catalog.=) $5 AND grantor OPERATOR(pg_catalog.=) $6";
    catalog::with_own_table(TABLE, || catalog::update(delete, &privilege.key())).map(|_| ())
}

const PUBLICATIONS: &str = "changed_publications";

/// Records what a publication published before it was changed. The first record stays.
pub fn record_publication(publication: &str, publish: &str) -> Result<(), Error> {
    let insert = "INSERT INTO civic.changed_publications (publication, publish) VALUES ($1, $2)
         ON CONFLICT DO NOTHING";
    let add = || catalog::update(insert, &[publication.into(), publish.into()]);
    catalog::with_own_table(PUBLICATIONS, add).map(|_| ())
}

/// What a publication published before `setup()` changed it.
pub fn recorded_publication(publication: &str) -> Result<Option<String>, Error> {
    let select = "SELECT publish FROM civic.changed_publications
         WHERE publication OPERATOR(pg_catalog.=) $1";
    let read = || catalog::texts(select, &[publication.into()]);
    Ok(catalog::with_own_table(PUBLICATIONS, read)?.unwrap_or_default().into_iter().next())
}

pub fn forget_publication(publication: &str) -> Result<(), Error> {
    let delete = "DELETE FROM civic.changed_publications
         WHERE publication OPERATOR(pg_catalog.=) $1";
    let remove = || catalog::update(delete, &[publication.into()]);
    catalog::with_own_table(PUBLICATIONS, remove).map(|_| ())
}
