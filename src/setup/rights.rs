//! Rights on Storage's and Realtime's tables that no policy covers.
//!
//! Storage grants ALL on its tables to `anon` and `authenticated`. Row security covers SELECT, INSERT,
//! UPDATE and DELETE. TRUNCATE empties the table for every municipality, TRIGGER runs the caller's code
//! as the next one who writes, REFERENCES tells whether a row exists, MAINTAIN locks the table.
//!
//! Realtime's authorization issues SELECT and INSERT on `realtime.messages` as the user
//! (supabase/realtime, lib/realtime/tenants/authorization.ex). UPDATE and DELETE are rights to lock
//! the table and nothing else. On a partition, which is not under the table's policies, it issues
//! nothing.

use pgrx::pg_sys::Oid;

use super::ledger::{self, Change, Privilege};
use super::{ALREADY, DONE, KEPT, REMOVED, SKIPPED, Step, catalog, step};
use crate::catalog::Owner;
use crate::error::Error;
use crate::pg::role;

/// What is not covered on any table.
const UNCOVERED: [&str; 4] = ["TRUNCATE", "TRIGGER", "REFERENCES", "MAINTAIN"];

/// The tables of a schema, and the rights on each that are revoked: NULL for all.
macro_rules! guarded_tables {
    () => {
        "WITH services (nspname, relname) AS (
             VALUES ('storage', 'buckets'), ('storage', 'objects'), ('realtime', 'messages')
         ), owned AS (
             SELECT s.nspname, c.oid, c.relnamespace, c.relname, c.relowner
             FROM services s
             JOIN pg_catalog.pg_namespace n ON n.nspname = s.nspname AND n.nspname = $1
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.relname
                  AND c.relkind IN ('r', 'p')
         ), partitions AS (
             SELECT p.relid AS oid
             FROM owned o CROSS JOIN LATERAL pg_catalog.pg_partition_tree(o.oid) p
             WHERE o.nspname = 'realtime' AND p.relid <> o.oid
         ), guarded AS (
             SELECT c.oid, CASE WHEN c.oid IN (SELECT oid FROM owned WHERE nspname = 'realtime')
                                THEN $2 || ARRAY['UPDATE', 'DELETE'] ELSE $2 END AS uncovered
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

/// A right that somebody has, and who has granted it.
pub struct Found {
    pub right: Privilege,
    grantor: Oid,
}

/// The rights that PUBLIC, `anon` and `authenticated` have been granted on the tables of a schema.
pub fn found(schema: &str) -> Result<Vec<Found>, Error> {
    catalog::rows(
        concat!(
            guarded_tables!(),
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
        &[schema.into(), uncovered().into()],
        |row| {
            Ok(Found {
                right: Privilege {
                    schema: row.get(1)?.unwrap_or_default(),
                    object: row.get(2)?.unwrap_or_default(),
                    column: row.get(3)?.unwrap_or_default(),
                    privilege: row.get(4)?.unwrap_or_default(),
                    grantee: row.get(5)?.unwrap_or_default(),
                    grantor: row.get(6)?.unwrap_or_default(),
                    is_grantable: row.get(7)?.unwrap_or_default(),
                },
                grantor: row.get(8)?.unwrap_or(Oid::INVALID),
            })
        },
    )
}

fn uncovered() -> Vec<String> {
    UNCOVERED.map(str::to_owned).to_vec()
}

/// Roles whose rights of this kind `anon` or `authenticated` have as members, each with the statement
/// that ends the membership.
pub fn by_membership(schema: &str) -> Result<Vec<(String, String)>, Error> {
    catalog::rows(
        concat!(
            guarded_tables!(),
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
             -- Rights on every table, of which no list of a table's rights knows.
             SELECT pg_catalog.format('%s as a member of %s', r.rolname, g.rolname),
                    pg_catalog.format('REVOKE %I FROM %I;', g.rolname, r.rolname)
             FROM pg_catalog.pg_roles g
             JOIN pg_catalog.pg_roles r
                  ON r.rolname IN ('anon', 'authenticated') AND NOT r.rolsuper
             WHERE (g.rolname = 'pg_maintain' OR g.rolname = 'pg_write_all_data' AND $1 = 'realtime')
               AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')
             ORDER BY 1"
        ),
        &[schema.into(), uncovered().into()],
        |row| Ok((row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or_default())),
    )
}

pub fn component(schema: &str) -> String {
    format!("rights on the tables of {schema}")
}

/// Tables, roles and rights in one line.
pub fn summary<'a>(rights: impl Iterator<Item = &'a Privilege>) -> String {
    let mut lines: Vec<(String, String, Vec<String>)> = vec![];
    for right in rights {
        match lines.last_mut() {
            Some((table, role, rights)) if *table == right.table() && *role == right.role() => {
                rights.push(right.what());
            }
            _ => lines.push((right.table(), right.role(), vec![right.what()])),
        }
    }
    let line = |(table, role, rights): (String, String, Vec<String>)| {
        format!("{} on {table} of {role}", rights.join(", "))
    };
    lines.into_iter().map(line).collect::<Vec<_>>().join("; ")
}

/// Revokes each as the role that has granted it, and keeps it for `teardown`.
pub fn set_up(schema: &str) -> Result<Vec<Step>, Error> {
    let mut revoked = vec![];
    for Found { right, grantor } in found(schema)? {
        if role::has_rights_of(grantor) {
            Owner::new(grantor)?.execute(&right.revoke_statement(), &[])?;
            ledger::record(Change::Revoked, &right)?;
            revoked.push(right);
        }
    }
    let mut steps = vec![if revoked.is_empty() {
        step(component(schema), ALREADY, "policies cover what anon and authenticated may do")
    } else {
        step(component(schema), DONE, format!("revoked: {}", summary(revoked.iter())))
    }];
    for Found { right, .. } in found(schema)? {
        let detail = format!(
            "the caller does not have the rights of the grantor {}; as that role: {};",
            right.grantor,
            right.revoke_statement()
        );
        let component = format!("{} on {} of {}", right.what(), right.table(), right.role());
        steps.push(step(component, SKIPPED, detail));
    }
    Ok(steps)
}

/// Grants again what was revoked on tables of a schema, as the role that had granted it.
pub fn tear_down(schema: &str) -> Result<Vec<Step>, Error> {
    let (mut given_back, mut kept) = (vec![], vec![]);
    let of_schema = |right: &Privilege| right.schema == schema;
    for right in ledger::recorded(Change::Revoked)?.into_iter().filter(of_schema) {
        // Partitions come and go, and so do roles: what now has this name may be another's, where the
        // grantor has nothing to give.
        let grantors = catalog::rows(
            "SELECT g.oid FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
             JOIN pg_catalog.pg_roles g ON g.rolname = $3
             WHERE c.relname = $2 AND c.relkind IN ('r', 'p')
               AND ($4 = 'public' OR EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $4))
               AND ($5 = '' OR EXISTS (SELECT FROM pg_catalog.pg_attribute
                                       WHERE attrelid = c.oid AND attname = $5 AND NOT attisdropped))
               AND (pg_catalog.pg_has_role(g.oid, c.relowner, 'USAGE')
                    OR EXISTS (
                        SELECT FROM (
                            SELECT c.relacl
                            UNION ALL
                            SELECT t.attacl FROM pg_catalog.pg_attribute t
                            WHERE t.attrelid = c.oid AND t.attname = $5
                        ) l (acl)
                        CROSS JOIN LATERAL pg_catalog.aclexplode(l.acl) a
                        WHERE a.is_grantable AND a.privilege_type = $6
                          AND (a.grantee = 0 OR pg_catalog.pg_has_role(g.oid, a.grantee, 'USAGE'))))",
            &[
                schema.into(),
                right.object.as_str().into(),
                right.grantor.as_str().into(),
                right.grantee.as_str().into(),
                right.column.as_str().into(),
                right.privilege.as_str().into(),
            ],
            |row| row.get::<Oid>(1),
        )?;
        match grantors.into_iter().flatten().next() {
            Some(grantor) if !role::has_rights_of(grantor) => {
                kept.push(right);
                continue;
            }
            Some(grantor) => {
                Owner::new(grantor)?.execute(&right.grant_statement(), &[])?;
                given_back.push(right.clone());
            }
            None => {}
        }
        ledger::forget(&right)?;
    }
    let mut steps = vec![if given_back.is_empty() {
        step(component(schema), SKIPPED, "nothing that setup() has revoked")
    } else {
        step(component(schema), REMOVED, format!("given back: {}", summary(given_back.iter())))
    }];
    for right in kept {
        let component = format!("{} on {} of {}", right.what(), right.table(), right.role());
        let detail = format!("as role {}: {};", right.grantor, right.grant_statement());
        steps.push(step(component, KEPT, detail));
    }
    Ok(steps)
}
