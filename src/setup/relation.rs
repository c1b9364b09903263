//! A table of Storage, of Realtime or of the application, as the catalog has it.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;

use super::SetupError;
use super::plan::{Component, DONE, State, Step, step};
use crate::catalog::{self, Owner};
use crate::error::Error;
use crate::pg::Row;

#[derive(Debug, Clone)]
pub struct Relation {
    pub oid: Oid,
    /// Qualified and quoted.
    pub name: String,
    /// `pg_class.relkind`.
    pub kind: String,
    pub owner: Oid,
    pub owner_name: String,
    pub has_row_security: bool,
    pub forces_row_security: bool,
}

/// The columns of a relation `c` in schema `n`, to be read by [`Relation::read`].
macro_rules! relation {
    () => {
        "c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind::pg_catalog.text,
         c.relowner, pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
         c.relrowsecurity, c.relforcerowsecurity"
    };
}
pub(super) use relation;

impl Relation {
    /// How many columns `relation!` has.
    pub const COLUMNS: usize = 7;

    pub fn read(row: &Row<'_, '_>) -> Result<Relation, pgrx::spi::Error> {
        Ok(Relation {
            oid: row.get(1)?.unwrap_or(Oid::INVALID),
            name: row.get(2)?.unwrap_or_default(),
            kind: row.get(3)?.unwrap_or_default(),
            owner: row.get(4)?.unwrap_or(Oid::INVALID),
            owner_name: row.get(5)?.unwrap_or_default(),
            has_row_security: row.get(6)?.unwrap_or_default(),
            forces_row_security: row.get(7)?.unwrap_or_default(),
        })
    }

    fn find(condition: &str, arguments: &[DatumWithOid<'_>]) -> Result<Option<Relation>, Error> {
        let sql = format!(
            "SELECT {} FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {condition}",
            relation!()
        );
        Ok(catalog::rows(&sql, arguments, Relation::read)?.into_iter().next())
    }

    /// The table of a service, if it exists. By the catalog and not by name: a role without USAGE on the
    /// schema gets the list of what it lacks, and not the server's error.
    pub fn named(schema: &str, table: &str) -> Result<Option<Relation>, Error> {
        let condition = "n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
        Relation::find(condition, &[schema.into(), table.into()])
    }

    /// A relation of any kind.
    pub fn with_oid(oid: Oid) -> Result<Option<Relation>, Error> {
        Relation::find("c.oid = $1", &[oid.into()])
    }

    /// Errors: 42809 for what is not a table.
    pub fn check_is_table(&self) -> Result<(), SetupError> {
        let kind = match self.kind.as_str() {
            "r" | "p" => return Ok(()),
            "v" => "a view",
            "m" => "a materialized view",
            "f" => "a foreign table",
            "S" => "a sequence",
            "i" | "I" => "an index",
            "c" => "a composite type",
            _ => "of another kind",
        };
        Err(SetupError::NotATable { relation: self.name.clone(), kind })
    }

    pub fn owner(&self) -> Result<Owner, Error> {
        Owner::new(self.owner)
    }

    /// Runs one statement as the owner.
    pub fn execute(&self, statement: &str) -> Result<(), Error> {
        self.owner()?.execute(statement, &[])
    }
}

/// Row security, without which no policy is checked. `teardown()` leaves it enabled.
pub struct RowSecurity(pub Relation);

impl Component for RowSecurity {
    fn name(&self) -> String {
        format!("row security of {}", self.0.name)
    }

    fn state(&self) -> Result<State, Error> {
        Ok(if self.0.has_row_security {
            State::Installed("enabled".to_owned())
        } else {
            State::Missing("disabled: no policy is checked".to_owned())
        })
    }

    fn make(&self, _was: &State) -> Result<Vec<Step>, Error> {
        self.0.execute(&format!("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", self.0.name))?;
        Ok(vec![step(self.name(), DONE, "enabled")])
    }
}
