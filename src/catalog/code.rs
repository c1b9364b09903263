//! Code of other roles that a change of a table would run with the rights of a superuser.
//!
//! Statements on a table run as the table's owner. If the owner is a superuser, a trigger made by
//! any role with the right TRIGGER, and functions and types of other roles that the table uses,
//! would run with a superuser's rights. So such a change is refused for every caller.

use pgrx::pg_sys::Oid;

use crate::catalog::CatalogError;
use crate::error::Error;
use crate::pg::{self, role};

/// A change of a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Insert,
    /// A change of any kind.
    Any,
}

impl Change {
    /// Bits of `pg_trigger.tgtype`: INSERT 4, DELETE 8, UPDATE 16.
    fn trigger_events(self) -> i32 {
        match self {
            Change::Insert => 4,
            Change::Any => 4 | 8 | 16,
        }
    }
}

/// Finds code that a change of table `$1`, owned by `$2`, can run and that a role without the
/// rights of `$2` has made. `$3` holds the events that fire triggers. The column `code` describes
/// the code.
///
/// A trigger has no owner. Any role with TRIGGER can create one that calls a superuser's function,
/// with its own arguments and condition. So a trigger with arguments counts, and so does a
/// condition that is not immutable: `query_to_xml` runs any statement. Pinned objects, which
/// include all of `pg_catalog`, are not in `pg_depend`, only in the tree of the condition.
///
/// A foreign key that references the table and changes rows of another table fires the triggers
/// there.
const FIND: &str = r"
WITH RECURSIVE tree (oid, relowner) AS (
    SELECT c.oid, c.relowner FROM pg_catalog.pg_class c WHERE c.oid = $1
    UNION
    SELECT c.oid, c.relowner
    FROM tree t
    JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
), triggers AS (
    SELECT g.* FROM tree t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid
    WHERE NOT g.tgisinternal AND g.tgenabled <> 'D'
), reached (classid, objid) AS (
    SELECT o.classid::pg_catalog.oid, o.objid
    FROM (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, t.oid FROM tree t
        UNION ALL
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, x.indexrelid
        FROM tree t JOIN pg_catalog.pg_index x ON x.indrelid = t.oid
        UNION ALL
        SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, x.oid
        FROM tree t JOIN pg_catalog.pg_attrdef x ON x.adrelid = t.oid
        UNION ALL
        SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, x.oid
        FROM tree t JOIN pg_catalog.pg_constraint x ON x.conrelid = t.oid
        UNION ALL
        SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, x.oid
        FROM tree t JOIN pg_catalog.pg_rewrite x ON x.ev_class = t.oid
        UNION ALL
        SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, g.oid FROM triggers g
    ) o (classid, objid)
    UNION
    SELECT n.classid, n.objid
    FROM reached r
    CROSS JOIN LATERAL (
        SELECT d.refclassid, d.refobjid
        FROM pg_catalog.pg_depend d
        WHERE d.classid = r.classid AND d.objid = r.objid
          AND r.classid <> 'pg_catalog.pg_proc'::pg_catalog.regclass
          AND d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass,
                               'pg_catalog.pg_type'::pg_catalog.regclass,
                               'pg_catalog.pg_operator'::pg_catalog.regclass,
                               'pg_catalog.pg_opclass'::pg_catalog.regclass,
                               'pg_catalog.pg_opfamily'::pg_catalog.regclass)
        UNION ALL
        SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid
        FROM pg_catalog.pg_constraint k
        WHERE r.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND k.contypid = r.objid
        UNION ALL
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, y.typrelid
        FROM pg_catalog.pg_type y
        WHERE r.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND y.oid = r.objid
          AND y.typrelid <> 0
    ) n (classid, objid)
), owned (place, code, owner) AS (
    SELECT 1, 'function ' || p.oid::pg_catalog.regprocedure, p.proowner
    FROM reached r
    JOIN pg_catalog.pg_proc p ON p.oid = r.objid
    WHERE r.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    UNION ALL
    SELECT 2, 'code of type ' || pg_catalog.format_type(y.oid, NULL), y.typowner
    FROM reached r
    JOIN pg_catalog.pg_type y ON y.oid = r.objid
    WHERE r.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
    UNION ALL
    SELECT 3, 'code of table ' || t.oid::pg_catalog.regclass, t.relowner FROM tree t
    UNION ALL
    SELECT 4, 'code of table ' || c.oid::pg_catalog.regclass, c.relowner
    FROM tree t
    JOIN pg_catalog.pg_constraint k ON k.confrelid = t.oid AND k.contype = 'f'
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    WHERE k.confdeltype IN ('c', 'n', 'd') AND $3 & 8 <> 0
       OR k.confupdtype IN ('c', 'n', 'd') AND $3 & 16 <> 0
)
SELECT f.code
FROM (
    SELECT o.place, pg_catalog.format('%s of role %I', o.code, r.rolname)
    FROM owned o
    JOIN pg_catalog.pg_roles r ON r.oid = o.owner
    WHERE NOT pg_catalog.pg_has_role(r.oid, $2, 'MEMBER')
    UNION ALL
    SELECT 5, pg_catalog.format('function %s with the arguments or the condition of trigger %I',
                                g.tgfoid::pg_catalog.regprocedure, g.tgname)
    FROM triggers g
    WHERE g.tgtype::pg_catalog.int4 & $3 <> 0
      AND (g.tgnargs > 0 OR EXISTS (
           SELECT
           FROM pg_catalog.regexp_matches(g.tgqual::pg_catalog.text,
                    ':(funcid|opfuncid|hashfuncid|negfuncid|opno) ([0-9]+)', 'g') m (part)
           LEFT JOIN pg_catalog.pg_operator o
                  ON m.part[1] = 'opno' AND o.oid = m.part[2]::pg_catalog.oid
           JOIN pg_catalog.pg_proc p
                ON p.oid = CASE m.part[1] WHEN 'opno' THEN o.oprcode::pg_catalog.oid
                                          ELSE m.part[2]::pg_catalog.oid END
           WHERE p.provolatile <> 'i'))
) f (place, code)
ORDER BY f.place, f.code
LIMIT 1";

/// Call this before changing rows of a table as its owner. Until the end of the transaction no
/// other session can create a trigger on the table.
///
/// Errors: 55000 if the owner is a superuser and the change can run code of another role.
pub fn refuse_code_of_others(
    table: Oid,
    owner: Oid,
    name: &str,
    change: Change,
) -> Result<(), Error> {
    if !role::is_superuser(owner) {
        return Ok(());
    }
    pg::table::lock_for_writing(table);
    let arguments = [table.into(), owner.into(), change.trigger_events().into()];
    // Uses a snapshot newer than the lock and than the transaction's own.
    let found = pg::jit::with_small_tables(|| pg::fresh_snapshot::planned(FIND, &arguments))?;
    match found.into_iter().next() {
        None => Ok(()),
        Some(code) => Err(CatalogError::WouldRunAsSuperuser {
            what: format!("a change of table {name}"),
            // A name that is not valid text is not shown.
            code: code
                .into_iter()
                .flatten()
                .next()
                .unwrap_or_else(|| "code of other roles".to_owned()),
            remedy: format!(
                "Give the table to a role that is no superuser: ALTER TABLE {name} OWNER TO …;"
            ),
        }
        .into()),
    }
}
