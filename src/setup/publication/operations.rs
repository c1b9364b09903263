//! Which changes the publication publishes.
//!
//! For a DELETE Realtime asks no row security: every subscriber of any municipality, `anon` too, receives the
//! primary key of the deleted row. So `setup()` takes DELETE out where nobody else's table is published.

use pgrx::pg_sys::Oid;
use pgrx::spi::{quote_identifier, quote_literal};

use super::super::ledger;
use super::super::plan::{Component, DONE, KEPT, REMOVED, SETUP, SKIPPED, State, Step, step};
use super::super::privileges::TRIGGER_FUNCTION;
use super::PUBLICATION;
use crate::catalog::{self, Owner};
use crate::error::Error;
use crate::pg::role;

/// What `setup()` leaves of the changes.
const WITHOUT_DELETE: &str = "insert, update";

/// Which changes the publication publishes.
pub struct Operations;

/// The publication as the catalog has it.
struct Publication {
    /// As ALTER PUBLICATION takes them.
    publish: String,
    owner: Oid,
    owner_name: String,
    /// The tables of tickets in it, qualified and quoted.
    tickets: Vec<String>,
    /// What else is in it, in words. A consumer of it may need the DELETEs.
    others: Vec<String>,
}

impl Operations {
    /// `None` if there is no such publication.
    pub fn find() -> Result<Option<Operations>, Error> {
        Ok(Publication::find()?.map(|_| Operations))
    }

    /// Whether a table of tickets is in the publication.
    pub fn publishes_tickets() -> Result<bool, Error> {
        Ok(Publication::find()?.is_some_and(|publication| !publication.tickets.is_empty()))
    }
}

impl Publication {
    /// `None` if there is no publication of this name.
    fn find() -> Result<Option<Publication>, Error> {
        let found = catalog::rows(
            "SELECT pg_catalog.concat_ws(', ', CASE WHEN p.pubinsert THEN 'insert' END,
                                         CASE WHEN p.pubupdate THEN 'update' END,
                                         CASE WHEN p.pubdelete THEN 'delete' END,
                                         CASE WHEN p.pubtruncate THEN 'truncate' END),
                    p.pubowner, pg_catalog.pg_get_userbyid(p.pubowner)::pg_catalog.text,
                    ARRAY(SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
                          FROM pg_catalog.pg_class c
                          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                          WHERE EXISTS (SELECT FROM pg_catalog.pg_trigger t
                                        WHERE t.tgrelid = c.oid AND t.tgparentid = 0
                                          AND t.tgfoid = $2::pg_catalog.regprocedure)
                            AND (p.puballtables
                                 OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s
                                            WHERE s.pnpubid = p.oid AND s.pnnspid = n.oid)
                                 OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                                            WHERE r.prpubid = p.oid
                                              AND (r.prrelid = c.oid
                                                   OR r.prrelid IN (SELECT relid
                                                      FROM pg_catalog.pg_partition_ancestors(c.oid)))))
                          ORDER BY 1),
                    ARRAY(SELECT o.what FROM (
                              SELECT 1, 'all tables' WHERE p.puballtables
                              UNION ALL
                              SELECT 2, pg_catalog.format('the tables of schema %I', n.nspname)
                              FROM pg_catalog.pg_publication_namespace s
                              JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
                              WHERE s.pnpubid = p.oid
                              UNION ALL
                              SELECT 3, pg_catalog.format('%I.%I', n.nspname, c.relname)
                              FROM pg_catalog.pg_publication_rel r
                              JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
                              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                              WHERE r.prpubid = p.oid
                                AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                                                WHERE t.tgrelid = c.oid
                                                  AND t.tgfoid = $2::pg_catalog.regprocedure)
                          ) o (place, what) ORDER BY o.place, o.what)
             FROM pg_catalog.pg_publication p WHERE p.pubname = $1",
            &[PUBLICATION.into(), TRIGGER_FUNCTION.into()],
            |row| {
                Ok(Publication {
                    publish: row.get(1)?.unwrap_or_default(),
                    owner: row.get(2)?.unwrap_or(Oid::INVALID),
                    owner_name: row.get(3)?.unwrap_or_default(),
                    tickets: row.get(4)?.unwrap_or_default(),
                    others: row.get(5)?.unwrap_or_default(),
                })
            },
        )?;
        Ok(found.into_iter().next())
    }

    fn has_delete(&self) -> bool {
        self.publish.split(", ").any(|operation| operation == "delete")
    }

    fn is_callers(&self) -> bool {
        role::has_rights_of(self.owner)
    }

    fn set_statement(&self, publish: &str) -> String {
        let name = quote_identifier(PUBLICATION);
        format!("ALTER PUBLICATION {name} SET (publish = {})", quote_literal(publish))
    }

    fn set(&self, publish: &str) -> Result<(), Error> {
        Owner::new(self.owner)?.execute(&self.set_statement(publish), &[])
    }

    /// Why `setup()` does not change it.
    fn obstacle(&self) -> Option<String> {
        let statement = self.set_statement(WITHOUT_DELETE);
        if !self.others.is_empty() {
            let others = self.others.join(", ");
            Some(format!("also has {others}; if nobody needs their DELETEs: {statement};"))
        } else if !self.is_callers() {
            Some(format!("as its owner {}: {statement};", self.owner_name))
        } else {
            None
        }
    }
}

impl Component for Operations {
    fn name(&self) -> String {
        format!("changes in publication {PUBLICATION}")
    }

    fn state(&self) -> Result<State, Error> {
        // Looked up only now: an earlier step may have added the table of tickets.
        let publication = Publication::find()?;
        Ok(match publication {
            None => State::Unneeded("there is no publication of this name".to_owned()),
            Some(it) if !it.has_delete() => State::Installed(it.publish),
            Some(it) if it.tickets.is_empty() => {
                State::Unneeded("no table of tickets is published".to_owned())
            }
            Some(_) => State::Different(
                "with DELETE: every subscriber of any municipality, anon too, receives the primary key of \
                 each deleted ticket, because Realtime checks no row security for it"
                    .to_owned(),
            ),
        })
    }

    fn make(&self, _was: &State) -> Result<Vec<Step>, Error> {
        let Some(publication) = Publication::find()? else { return Ok(vec![]) };
        if let Some(obstacle) = publication.obstacle() {
            return Ok(vec![step(self.name(), SKIPPED, obstacle)]);
        }
        ledger::record_publication(PUBLICATION, &publication.publish)?;
        publication.set(WITHOUT_DELETE)?;
        let detail = format!("{WITHOUT_DELETE}; before: {}", publication.publish);
        Ok(vec![step(self.name(), DONE, detail)])
    }

    fn remove(&self) -> Result<Vec<Step>, Error> {
        let before = ledger::recorded_publication(PUBLICATION)?;
        let Some((publication, before)) = Publication::find()?.zip(before) else {
            return Ok(vec![]);
        };
        let step = if publication.publish != WITHOUT_DELETE {
            step(self.name(), KEPT, format!("changed since then: {}", publication.publish))
        } else if publication.is_callers() {
            publication.set(&before)?;
            step(self.name(), REMOVED, format!("{before} again"))
        } else {
            let (owner, statement) = (&publication.owner_name, publication.set_statement(&before));
            let detail = format!("as its owner {owner}: {statement};");
            return Ok(vec![step(self.name(), KEPT, detail)]);
        };
        ledger::forget_publication(PUBLICATION)?;
        Ok(vec![step])
    }

    fn fix(&self, _state: &State) -> String {
        let Ok(Some(publication)) = Publication::find() else { return SETUP.to_owned() };
        let statement = publication.set_statement(WITHOUT_DELETE);
        match (publication.obstacle(), publication.tickets.first()) {
            (None, Some(table)) => format!("SELECT * FROM civic.setup({});", quote_literal(table)),
            _ if publication.others.is_empty() => format!("{statement};"),
            _ => {
                let others = publication.others.join(", ");
                format!("{statement}; -- if nobody needs the DELETEs of {others}")
            }
        }
    }
}
