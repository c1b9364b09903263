//! The publication from which Supabase Realtime reads the changes of tables (`postgres_changes`).

use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;

use super::tickets::{self, Table};
use super::{ALREADY, DONE, KEPT, SKIPPED, Step, catalog, realtime, step};
use crate::catalog::Owner;
use crate::error::Error;

pub const PUBLICATION: &str = "supabase_realtime";

/// How a table stands to the publication.
pub struct Standing {
    pub is_published: bool,
    /// The role that adds the table: the owner of the one who has the rights of the other's owner.
    /// `None` where there is none.
    actor: Option<Oid>,
    /// Whether the caller has the rights of that role.
    is_callers: bool,
    /// Of the publication.
    owner: String,
    /// Whether the table is of the kind that a publication takes.
    is_logged: bool,
    /// Whether each row can be told by a key. Without one PostgreSQL refuses every UPDATE of a
    /// published table.
    pub has_identity: bool,
    pub has_row_security: bool,
}

/// `None` where there is no such publication.
pub fn standing(table: Oid) -> Result<Option<Standing>, Error> {
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
                ) IS NOT FALSE,
                c.relrowsecurity
         FROM pg_catalog.pg_publication p, pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (SELECT
             CASE WHEN pg_catalog.pg_has_role(c.relowner, p.pubowner, 'USAGE') THEN c.relowner
                  WHEN pg_catalog.pg_has_role(p.pubowner, c.relowner, 'USAGE') THEN p.pubowner
             END) a (actor)
         WHERE p.pubname = $1 AND c.oid = $2",
        &[PUBLICATION.into(), table.into()],
        |row| {
            Ok(Standing {
                is_published: row.get(1)?.unwrap_or_default(),
                actor: row.get(2)?,
                is_callers: row.get(3)?.unwrap_or_default(),
                owner: row.get(4)?.unwrap_or_default(),
                is_logged: row.get(5)?.unwrap_or_default(),
                has_identity: row.get(6)?.unwrap_or_default(),
                has_row_security: row.get(7)?.unwrap_or_default(),
            })
        },
    )?;
    Ok(found.into_iter().next())
}

pub fn missing_privileges(table: &Table) -> Result<Vec<String>, Error> {
    Ok(match standing(table.oid)? {
        Some(Standing {
            is_published: false, actor: Some(_), is_callers: false, owner, ..
        }) => {
            vec![format!("ownership of publication {PUBLICATION} (its owner is {owner})")]
        }
        _ => vec![],
    })
}

fn component(table: &str) -> String {
    format!("{table} in publication {PUBLICATION}")
}

/// The statement that publishes a table.
pub fn publish(table: &str) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {table}", quote_identifier(PUBLICATION))
}

pub fn set_up(table: &Table) -> Result<Vec<Step>, Error> {
    let component = component(&table.name);
    let Some(standing) = standing(table.oid)? else {
        let skipped = step(component, SKIPPED, "there is no such publication");
        // Elsewhere nobody expects one.
        return Ok(realtime::exists()?.then_some(skipped).into_iter().collect());
    };
    let whom = if standing.has_row_security {
        "a subscriber sees the rows that row security lets him see"
    } else {
        "the table has no row security: a subscriber who may SELECT sees every row of it"
    };
    Ok(vec![if standing.is_published {
        step(component, ALREADY, whom)
    } else if !standing.is_logged {
        step(component, SKIPPED, "a table that is not logged cannot be published")
    } else if !standing.has_identity {
        let detail = "the table has no primary key: once it were published, PostgreSQL would refuse \
                      every UPDATE";
        step(component, SKIPPED, detail)
    } else if let Some(actor) = standing.actor {
        Owner::new(actor)?.execute(&publish(&table.name), &[])?;
        step(component, DONE, format!("added; {whom}"))
    } else {
        let detail = format!(
            "the owner of the table does not own the publication, nor its owner {} the table; as a \
             superuser: {};",
            standing.owner,
            publish(&table.name)
        );
        step(component, SKIPPED, detail)
    }])
}

/// Nobody knows any more who published a table, so it stays published: whoever may SELECT its rows
/// could read them anyway.
pub fn tear_down() -> Result<Vec<Step>, Error> {
    let mut steps = vec![];
    for trigger in tickets::triggers()?.into_iter().filter(|trigger| !trigger.is_inherited) {
        if standing(trigger.oid)?.is_some_and(|standing| standing.is_published) {
            let detail = format!(
                "the application may need it; ALTER PUBLICATION {PUBLICATION} DROP TABLE {}; ends it",
                trigger.table
            );
            steps.push(step(component(&trigger.table), KEPT, detail));
        }
    }
    Ok(steps)
}
