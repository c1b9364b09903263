//! A table of Storage, of Realtime or of the application, as the catalog has it.

use pgrx::pg_sys::Oid;

use super::plan::{Component, DONE, State, Step, step};
use crate::catalog::{self, Owner};
use crate::error::Error;

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

/// By the catalog and not by name: a role without USAGE on the schema gets the list of what it lacks,
/// and not the server's error.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind::pg_catalog.text, c.relowner,
                    pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
                    c.relrowsecurity, c.relforcerowsecurity
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE ",
            $condition
        )
    };
}

impl Relation {
    /// The table of a service, if there is one.
    pub fn named(schema: &str, table: &str) -> Result<Option<Relation>, Error> {
        let sql = select!("n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')");
        Ok(catalog::rows(sql, &[schema.into(), table.into()], read)?.into_iter().next())
    }

    /// A relation of any kind.
    pub fn with_oid(oid: Oid) -> Result<Option<Relation>, Error> {
        Ok(catalog::rows(select!("c.oid = $1"), &[oid.into()], read)?.into_iter().next())
    }

    /// Runs one statement as the owner.
    pub fn execute(&self, statement: &str) -> Result<(), Error> {
        Owner::new(self.owner)?.execute(statement, &[])
    }
}

fn read(row: &crate::pg::Row<'_, '_>) -> Result<Relation, pgrx::spi::Error> {
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
