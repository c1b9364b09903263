//! The publication from which Supabase Realtime reads the changes of tables (`postgres_changes`).

mod operations;

pub use operations::Operations;

use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;

use super::plan::{ALREADY, Component, DONE, KEPT, SKIPPED, State, Step, step};
use super::relation::Relation;
use crate::catalog::{self, Owner};
use crate::error::Error;

const PUBLICATION: &str = "supabase_realtime";

/// A table with the trigger, as a member of the publication.
pub struct Published {
    table: Relation,
    is_published: bool,
    /// The role that adds the table: the owner of the table or of the publication, whichever has the
    /// rights of the other.
    actor: Option<Oid>,
    /// Whether the caller has the rights of that role.
    is_callers: bool,
    publication_owner: String,
    /// Whether the table is of a kind that can be published.
    is_logged: bool,
    /// Whether a key identifies each row. Without one PostgreSQL refuses every UPDATE of a published
    /// table.
    has_identity: bool,
}

pub fn name(table: &str) -> String {
    format!("{table} in publication {PUBLICATION}")
}

impl Published {
    /// `None` if there is no publication of this name.
    pub fn find(table: &Relation) -> Result<Option<Published>, Error> {
        let found = catalog::rows(
        "SELECT p.puballtables
                OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                           WHERE r.prpubid = p.oid
                             AND (r.prrelid = c.oid
                                  OR r.prrelid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid))))
                OR EXISTS (SELECT FROM pg_catalog.pg_publication_tables t
                           WHERE t.pubname = p.pubname AND t.schemaname = n.nspname
                             AND t.tablename = c.relname),
                a.actor,
                pg_catalog.pg_has_role(current_user, a.actor, 'USAGE'),
                pg_catalog.pg_get_userbyid(p.pubowner)::pg_catalog.text,
                c.relpersistence = 'p',
                (SELECT pg_catalog.bool_and(
                            l.relreplident IN ('f', 'i')
                            OR l.relreplident = 'd'
                               AND EXISTS (SELECT FROM pg_catalog.pg_index
                                           WHERE indrelid = l.oid AND indisprimary))
                 FROM pg_catalog.pg_class l
                 WHERE l.oid IN (SELECT c.oid WHERE c.relkind = 'r'
                                 UNION ALL
                                 SELECT relid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf)
                ) IS NOT FALSE
         FROM pg_catalog.pg_publication p, pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (SELECT
             CASE WHEN pg_catalog.pg_has_role(c.relowner, p.pubowner, 'USAGE') THEN c.relowner
                  WHEN pg_catalog.pg_has_role(p.pubowner, c.relowner, 'USAGE') THEN p.pubowner
             END) a (actor)
         WHERE p.pubname = $1 AND c.oid = $2",
            &[PUBLICATION.into(), table.oid.into()],
            |row| {
                Ok(Published {
                    table: table.clone(),
                    is_published: row.get(1)?.unwrap_or_default(),
                    actor: row.get(2)?,
                    is_callers: row.get(3)?.unwrap_or_default(),
                    publication_owner: row.get(4)?.unwrap_or_default(),
                    is_logged: row.get(5)?.unwrap_or_default(),
                    has_identity: row.get(6)?.unwrap_or_default(),
                })
            },
        )?;
        Ok(found.into_iter().next())
    }

    pub fn missing_privileges(&self) -> Vec<String> {
        if self.is_published || self.actor.is_none() || self.is_callers {
            return vec![];
        }
        let owner = &self.publication_owner;
        vec![format!("ownership of publication {PUBLICATION} (its owner is {owner})")]
    }

    fn add_statement(&self) -> String {
        format!("ALTER PUBLICATION {} ADD TABLE {}", quote_identifier(PUBLICATION), self.table.name)
    }

    /// Who receives the changes.
    fn readers(&self) -> &'static str {
        if self.table.has_row_security {
            "a subscriber receives the rows that row security shows them"
        } else {
            "the table has no row security: a subscriber who may SELECT receives every row"
        }
    }
}

impl Component for Published {
    fn name(&self) -> String {
        name(&self.table.name)
    }

    fn state(&self) -> Result<State, Error> {
        Ok(if !self.is_published {
            State::Missing("not published: citizens receive no changes of their tickets".to_owned())
        } else if !self.has_identity {
            State::Different("published without a key: PostgreSQL refuses every UPDATE".to_owned())
        } else if !self.table.has_row_security {
            State::Different(self.readers().to_owned())
        } else {
            State::Installed("published, under row security".to_owned())
        })
    }

    fn make(&self, _was: &State) -> Result<Vec<Step>, Error> {
        Ok(vec![if self.is_published {
            step(self.name(), ALREADY, self.readers())
        } else if !self.is_logged {
            step(self.name(), SKIPPED, "an unlogged or temporary table cannot be published")
        } else if !self.has_identity {
            let detail = "the table has no primary key: if it were published, PostgreSQL would refuse \
                          every UPDATE";
            step(self.name(), SKIPPED, detail)
        } else if let Some(actor) = self.actor {
            Owner::new(actor)?.execute(&self.add_statement(), &[])?;
            step(self.name(), DONE, format!("added; {}", self.readers()))
        } else {
            let detail = format!(
                "neither the owner of the table nor {}, the owner of the publication, has the rights of \
                 the other; as a superuser: {};",
                self.publication_owner,
                self.add_statement()
            );
            step(self.name(), SKIPPED, detail)
        }])
    }

    /// It is not known who has published the table, so it stays published: a role that may SELECT its
    /// rows could read them anyway.
    fn remove(&self) -> Result<Vec<Step>, Error> {
        let detail = format!(
            "the application may need it; to end it: ALTER PUBLICATION {PUBLICATION} DROP TABLE {};",
            self.table.name
        );
        Ok(vec![step(self.name(), KEPT, detail)])
    }

    fn fix(&self, _state: &State) -> String {
        let table = &self.table.name;
        let identity = format!("ALTER TABLE {table} REPLICA IDENTITY FULL;");
        match (self.is_published, self.has_identity) {
            (true, true) => {
                format!(
                    "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; -- after its policies exist"
                )
            }
            (true, false) => identity,
            (false, true) => self.add_statement() + ";",
            (false, false) => format!("{identity} {};", self.add_statement()),
        }
    }
}
