//! Privileges on Storage's and Realtime's tables that no policy covers.
//!
//! Storage grants ALL on its tables to `anon` and `authenticated`. Row security covers SELECT, INSERT,
//! UPDATE and DELETE; [`privileges`] lists the others. On a partition of `realtime.messages`, which is not
//! under the table's policies, Realtime issues nothing as the user, so every privilege counts.
//!
//! [`privileges`]: super::privileges

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;

use super::ledger::{self, Change, Privilege};
use super::plan::{Component, DONE, KEPT, REMOVED, SKIPPED, State, Step, is_refused, step};
use super::privileges::{UNCOVERED, UNCOVERED_ON_MESSAGES, guarded};
use super::relation::Relation;
use crate::catalog::{self, Owner};
use crate::error::Error;
use crate::pg::role;

/// The privileges `acl` on the tables of schema `$1`, and `uncovered`, what of them is revoked: `$2`, on
/// `realtime.messages` `$3` too; NULL for all.
macro_rules! privileges_on {
    () => {
        "WITH owned AS (
             SELECT n.nspname, c.oid, c.relnamespace, c.relname, c.relowner
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
               AND pg_catalog.concat(n.nspname, '.', c.relname) = ANY ($4)
         ), partitions AS (
             SELECT p.relid AS oid
             FROM owned o CROSS JOIN LATERAL pg_catalog.pg_partition_tree(o.oid) p
             WHERE o.nspname = 'realtime' AND p.relid <> o.oid
         ), guarded AS (
             SELECT c.oid, CASE WHEN c.oid IN (SELECT oid FROM owned WHERE nspname = 'realtime')
                                THEN $2 || $3 ELSE $2 END AS uncovered
             FROM pg_catalog.pg_class c
             WHERE c.relkind IN ('r', 'p') AND c.oid NOT IN (SELECT oid FROM partitions)
               AND (c.oid IN (SELECT oid FROM owned)
                    OR (c.relnamespace, c.relowner) IN (SELECT relnamespace, relowner FROM owned))
             UNION ALL
             SELECT oid, NULL FROM partitions
         ), acl AS (
             SELECT g.oid, g.uncovered, ''::pg_catalog.text AS column_name, a.*
             FROM guarded g
             JOIN pg_catalog.pg_class c ON c.oid = g.oid
             CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
             UNION ALL
             SELECT g.oid, g.uncovered, t.attname::pg_catalog.text, a.*
             FROM guarded g
             JOIN pg_catalog.pg_attribute t
                  ON t.attrelid = g.oid AND t.attnum > 0 AND NOT t.attisdropped
             CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) a
         )"
    };
}

fn arguments(schema: &str) -> [DatumWithOid<'_>; 4] {
    let names = |privileges: &[&str]| -> Vec<String> {
        privileges.iter().map(|privilege| privilege.to_string()).collect()
    };
    [
        schema.into(),
        names(&UNCOVERED).into(),
        names(&UNCOVERED_ON_MESSAGES).into(),
        guarded().into(),
    ]
}

/// A privilege that a role has, and which role has granted it.
struct Found {
    right: Privilege,
    grantor: Oid,
}

/// What PUBLIC, `anon` and `authenticated` have been granted of it on the tables of a schema.
fn found(schema: &str) -> Result<Vec<Found>, Error> {
    catalog::rows(
        concat!(
            privileges_on!(),
            "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, acl.column_name,
                    acl.privilege_type,
                    CASE acl.grantee WHEN 0 THEN 'public'
                         ELSE pg_catalog.pg_get_userbyid(acl.grantee)::pg_catalog.text END,
                    pg_catalog.pg_get_userbyid(acl.grantor)::pg_catalog.text,
                    acl.is_grantable, acl.grantor
             FROM acl
             JOIN pg_catalog.pg_class c ON c.oid = acl.oid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN pg_catalog.pg_roles r ON r.oid = acl.grantee
             WHERE (acl.grantee = 0 OR r.rolname IN ('anon', 'authenticated'))
               AND acl.grantee <> c.relowner
               AND (acl.uncovered IS NULL OR acl.privilege_type = ANY (acl.uncovered))
             ORDER BY 1, 2, 3, 5, 4, 6"
        ),
        &arguments(schema),
        |row| {
            let grantor = row.get(8)?.unwrap_or(Oid::INVALID);
            Ok(Found { right: Privilege::read(row)?, grantor })
        },
    )
}

/// What `anon` and `authenticated` have of it as members of another role, each with the statement that ends
/// the membership.
pub fn by_membership(schema: &str) -> Result<Vec<(String, String)>, Error> {
    catalog::rows(
        concat!(
            privileges_on!(),
            "SELECT DISTINCT pg_catalog.format('%s as a member of %s', r.rolname, g.rolname),
                    pg_catalog.format('REVOKE %I FROM %I;', g.rolname, r.rolname)
             FROM acl
             JOIN pg_catalog.pg_class c ON c.oid = acl.oid
             JOIN pg_catalog.pg_roles g ON g.oid = acl.grantee AND g.oid <> c.relowner
             JOIN pg_catalog.pg_roles r
                  ON r.rolname IN ('anon', 'authenticated') AND NOT r.rolsuper
             WHERE g.rolname NOT IN ('anon', 'authenticated')
               AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')
               AND (acl.uncovered IS NULL OR acl.privilege_type = ANY (acl.uncovered))
             UNION
             -- Privileges on every table, which no list of a table has.
             SELECT pg_catalog.format('%s as a member of %s', r.rolname, g.rolname),
                    pg_catalog.format('REVOKE %I FROM %I;', g.rolname, r.rolname)
             FROM pg_catalog.pg_roles g
             JOIN pg_catalog.pg_roles r
                  ON r.rolname IN ('anon', 'authenticated') AND NOT r.rolsuper
             WHERE (g.rolname = 'pg_maintain' OR g.rolname = 'pg_write_all_data' AND $1 = 'realtime')
               AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')
             ORDER BY 1"
        ),
        &arguments(schema),
        |row| Ok((row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or_default())),
    )
}

fn grantor(right: &Privilege) -> Result<Option<Oid>, Error> {
    let sql = "SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1";
    let oids = catalog::rows(sql, &[right.grantor.as_str().into()], |row| row.get::<Oid>(1))?;
    Ok(oids.into_iter().flatten().next())
}

/// Tables, roles and privileges in one line.
fn summary<'a>(rights: impl Iterator<Item = &'a Privilege>) -> String {
    let mut lines: Vec<(String, String)> = vec![];
    for right in rights {
        let place = format!(" on {} of {}", right.table(), right.role());
        match lines.last_mut() {
            Some((rights, last)) if *last == place => *rights += &format!(", {}", right.what()),
            _ => lines.push((right.what(), place)),
        }
    }
    lines.into_iter().map(|(rights, place)| rights + &place).collect::<Vec<_>>().join("; ")
}

pub fn name(schema: &str) -> String {
    format!("rights on the tables of {schema}")
}

/// The privileges on the tables of one service's schema.
pub struct Rights(pub &'static str);

impl Component for Rights {
    fn name(&self) -> String {
        name(self.0)
    }

    fn state(&self) -> Result<State, Error> {
        let found = found(self.0)?;
        Ok(if found.is_empty() {
            State::Installed("policies cover what anon and authenticated may do".to_owned())
        } else {
            let summary = summary(found.iter().map(|found| &found.right));
            State::Different(format!("no policy covers: {summary}"))
        })
    }

    fn make(&self, _was: &State) -> Result<Vec<Step>, Error> {
        revoke(&self.name(), || found(self.0))
    }

    fn remove(&self) -> Result<Vec<Step>, Error> {
        let steps = grant_again(&self.name(), self.0, |right| right.schema == self.0)?;
        let nothing = || vec![step(self.name(), SKIPPED, "setup() has revoked nothing")];
        Ok(if steps.is_empty() { nothing() } else { steps })
    }
}

/// The privileges on one table of the application that no policy covers.
pub struct TableRights(pub Relation);

impl TableRights {
    fn found(&self) -> Result<Vec<Found>, Error> {
        let uncovered: Vec<_> = UNCOVERED.iter().map(|privilege| privilege.to_string()).collect();
        catalog::rows(
            "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, a.column_name,
                    a.privilege_type,
                    CASE a.grantee WHEN 0 THEN 'public'
                         ELSE pg_catalog.pg_get_userbyid(a.grantee)::pg_catalog.text END,
                    pg_catalog.pg_get_userbyid(a.grantor)::pg_catalog.text,
                    a.is_grantable, a.grantor
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             CROSS JOIN LATERAL (
                 SELECT ''::pg_catalog.text AS column_name, x.*
                 FROM pg_catalog.aclexplode(c.relacl) x
                 UNION ALL
                 SELECT t.attname::pg_catalog.text, x.*
                 FROM pg_catalog.pg_attribute t
                 CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) x
                 WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
             ) a
             LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
             WHERE c.oid = $1 AND (a.grantee = 0 OR r.rolname IN ('anon', 'authenticated'))
               AND a.grantee <> c.relowner AND a.privilege_type = ANY ($2)
             ORDER BY 1, 2, 3, 5, 4, 6",
            &[self.0.oid.into(), uncovered.into()],
            |row| {
                let grantor = row.get(8)?.unwrap_or(Oid::INVALID);
                Ok(Found { right: Privilege::read(row)?, grantor })
            },
        )
    }
}

impl Component for TableRights {
    fn name(&self) -> String {
        format!("rights on {}", self.0.name)
    }

    fn state(&self) -> Result<State, Error> {
        let found = self.found()?;
        Ok(if found.is_empty() {
            State::Installed("policies cover what anon and authenticated may do".to_owned())
        } else {
            let summary = summary(found.iter().map(|found| &found.right));
            State::Different(format!("no policy covers: {summary}"))
        })
    }

    fn make(&self, _was: &State) -> Result<Vec<Step>, Error> {
        revoke(&self.name(), || self.found())
    }

    fn remove(&self) -> Result<Vec<Step>, Error> {
        grant_again(&self.name(), "the table", |right| right.table() == self.0.name)
    }

    /// As the owner of the table: [`Relation`] has the name.
    fn fix(&self, _state: &State) -> String {
        let statements = self.found().unwrap_or_default();
        let statements = statements.iter().map(|found| found.right.revoke_statement() + ";");
        statements.collect::<Vec<_>>().join(" ")
    }
}

/// Revokes each privilege as the role that has granted it, and records it for `teardown()`.
fn revoke(name: &str, find: impl Fn() -> Result<Vec<Found>, Error>) -> Result<Vec<Step>, Error> {
    let mut revoked = vec![];
    for Found { right, grantor } in find()? {
        if role::has_rights_of(grantor) {
            Owner::new(grantor)?.execute(&right.revoke_statement(), &[])?;
            ledger::record(Change::Revoked, &right)?;
            revoked.push(right);
        }
    }
    let mut steps = vec![];
    if !revoked.is_empty() {
        steps.push(step(name, DONE, format!("revoked: {}", summary(revoked.iter()))));
    }
    for Found { right, .. } in find()? {
        let detail = format!(
            "the caller does not have the rights of the grantor; as role {}: {};",
            right.grantor,
            right.revoke_statement()
        );
        steps.push(step(right.description(), SKIPPED, detail));
    }
    Ok(steps)
}

/// Grants again what was revoked, as the role that had granted it. `tables` names them in messages.
fn grant_again(
    name: &str,
    tables: &'static str,
    is_one: impl Fn(&Privilege) -> bool,
) -> Result<Vec<Step>, Error> {
    let (mut granted, mut steps) = (vec![], vec![]);
    for right in ledger::recorded(Change::Revoked)?.into_iter().filter(is_one) {
        match grantor(&right)? {
            Some(grantor) if !role::has_rights_of(grantor) => {
                let detail = format!("as role {}: {};", right.grantor, right.grant_statement());
                steps.push(step(right.description(), KEPT, detail));
                continue;
            }
            // Partitions and roles are dropped and created. On a table of the name that belongs to
            // another role the grantor has nothing to grant.
            Some(grantor) => {
                match Owner::new(grantor)?.change(tables, &right.grant_statement(), &[]) {
                    Ok(()) => granted.push(right.clone()),
                    Err(error) if is_refused(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            None => {}
        }
        ledger::forget(&right)?;
    }
    if !granted.is_empty() {
        let detail = format!("granted again: {}", summary(granted.iter()));
        steps.insert(0, step(name, REMOVED, detail));
    }
    Ok(steps)
}
