//! Ways around the policies, and code of others that runs with more rights than its owner has.

use super::super::plan::{Finding, bad, good};
use super::super::privileges::guarded_tables;
use super::super::{policy, rights};
use crate::catalog;
use crate::error::Error;

/// The tables under the policies, with their partitions.
macro_rules! guarded {
    () => {
        concat!("WITH RECURSIVE tables AS (
             SELECT c.oid, c.relowner, c.relforcerowsecurity, n.nspname,
                    pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
             FROM ", guarded_tables!(), " s (nspname, relname)
             JOIN pg_catalog.pg_namespace n ON n.nspname = s.nspname
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.relname
                  AND c.relkind IN ('r', 'p')
         ), guarded AS (
             SELECT t.oid, t.relowner, t.relforcerowsecurity, t.nspname, t.name FROM tables t
             UNION
             SELECT p.relid, t.relowner, false, t.nspname, t.name
             FROM tables t CROSS JOIN LATERAL pg_catalog.pg_partition_tree(t.oid) p
             WHERE p.relid <> t.oid
         ), people (name) AS (
             SELECT 'public'
             UNION ALL
             -- And each role that they can become.
             SELECT DISTINCT m.rolname
             FROM pg_catalog.pg_roles r
             JOIN pg_catalog.pg_roles m ON pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER')
             WHERE r.rolname IN ('anon', 'authenticated') AND NOT r.rolsuper
               AND NOT m.rolsuper AND NOT m.rolbypassrls
         ), uses AS (
             SELECT DISTINCT w.ev_class AS view, d.refobjid AS used
             FROM pg_catalog.pg_rewrite w
             JOIN pg_catalog.pg_depend d
                  ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
                 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND d.refobjid <> w.ev_class
         ), reaching (view, name, relowner, relforcerowsecurity) AS (
             SELECT u.view, g.name, g.relowner, g.relforcerowsecurity
             FROM uses u JOIN guarded g ON g.oid = u.used
             UNION
             SELECT u.view, x.name, x.relowner, x.relforcerowsecurity
             FROM reaching x JOIN uses u ON u.used = x.view
         )")
    };
}

/// Whether a role `r` passes the policies of a guarded table `g`.
macro_rules! passes {
    () => {
        "(r.rolsuper OR r.rolbypassrls
          OR pg_catalog.pg_has_role(r.oid, g.relowner, 'USAGE') AND NOT g.relforcerowsecurity)"
    };
}

/// An event trigger runs at every CREATE, ALTER, GRANT and DROP of a superuser. First of all: the
/// other fixes are such statements.
pub fn event_triggers() -> Result<Vec<Finding>, Error> {
    let finding = |trigger: catalog::EventTrigger| {
        let detail = format!(
            "runs function {} of role {} with the rights of each role that changes the catalog, a \
             superuser too; disable it before any other statement",
            trigger.function, trigger.owner
        );
        let fix = format!("ALTER EVENT TRIGGER {} DISABLE;", trigger.name);
        bad(format!("event trigger {}", trigger.name), detail, fix)
    };
    Ok(catalog::event_triggers_of_others()?.into_iter().map(finding).collect())
}

/// Privileges that no policy covers, which `anon` or `authenticated` has as a member of another role.
pub fn memberships(schema: &str) -> Result<Vec<Finding>, Error> {
    let finding = |(member, fix)| {
        let detail = format!("no policy covers what {member} may do");
        bad(rights::name(schema), detail, fix)
    };
    Ok(rights::by_membership(schema)?.into_iter().map(finding).collect())
}

/// Whether the roles of users pass row security, have the rights of the owner of a guarded table, or
/// can read or write the files of the server. Membership counts whether inherited or not: SET ROLE is one
/// statement away.
pub fn roles() -> Result<Vec<Finding>, Error> {
    let mut findings = vec![];
    for role in ["anon", policy::AUTHENTICATED] {
        if !policy::has_role(role)? {
            continue;
        }
        let fixes = catalog::texts(
            concat!(
                guarded!(),
                "SELECT DISTINCT f.fix
                 FROM pg_catalog.pg_roles r
                 CROSS JOIN LATERAL (
                     SELECT pg_catalog.format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS;', r.rolname)
                     WHERE r.rolsuper OR r.rolbypassrls
                     UNION ALL
                     -- Never to a superuser: what is on the table would run with its rights.
                     SELECT CASE WHEN r.oid = t.relowner
                                 THEN pg_catalog.format('ALTER TABLE %s OWNER TO %I;', t.name,
                                          coalesce((SELECT s.rolname FROM pg_catalog.pg_roles s
                                                    WHERE s.rolname = 'supabase_' || t.nspname || '_admin'),
                                                   (SELECT pg_catalog.pg_get_userbyid(n.nspowner)
                                                    FROM pg_catalog.pg_namespace n
                                                    WHERE n.nspname = t.nspname)))
                                 ELSE pg_catalog.format('REVOKE %I FROM %I;',
                                          pg_catalog.pg_get_userbyid(t.relowner), r.rolname) END
                     FROM tables t
                     WHERE NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, t.relowner, 'MEMBER')
                     UNION ALL
                     -- The last three read or write the files of the server.
                     SELECT pg_catalog.format('REVOKE %I FROM %I;', o.rolname, m.rolname)
                     FROM pg_catalog.pg_roles m
                     JOIN pg_catalog.pg_auth_members g ON g.member = m.oid
                     JOIN pg_catalog.pg_roles o ON o.oid = g.roleid
                     WHERE pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER')
                       AND NOT r.rolsuper AND NOT m.rolsuper AND NOT m.rolbypassrls
                       AND (o.rolsuper OR o.rolbypassrls
                            OR o.rolname IN ('pg_read_server_files', 'pg_write_server_files',
                                             'pg_execute_server_program'))
                 ) f (fix)
                 WHERE r.rolname = $1
                 ORDER BY 1"
            ),
            &[role.into()],
        )?;
        let component = format!("role {role}");
        findings.push(if fixes.is_empty() {
            good(component, "subject to row security")
        } else {
            let detail = "passes row security, has the rights of the owner of a guarded table, or reads files \
                          of the server, by itself or as a member of another role";
            bad(component, detail, fixes.join(" "))
        });
    }
    Ok(findings)
}

/// If a superuser owns a guarded table, code that others have put on it runs with a superuser's rights:
/// statements on the table run as its owner.
pub fn owners() -> Result<Vec<Finding>, Error> {
    catalog::rows(
        concat!(
            guarded!(),
            "SELECT pg_catalog.format('owner of %s', t.name),
                    pg_catalog.format('%s is a superuser: triggers and defaults on the table run with these rights',
                                      r.rolname),
                    pg_catalog.format('ALTER TABLE %s OWNER TO %I;', t.name, s.rolname)
             FROM tables t
             JOIN pg_catalog.pg_roles r ON r.oid = t.relowner AND r.rolsuper
             LEFT JOIN pg_catalog.pg_roles s
                  ON s.rolname = pg_catalog.format('supabase_%s_admin', t.nspname) AND NOT s.rolsuper
             ORDER BY 1"
        ),
        &[],
        finding,
    )
}

/// Privileges that the partitions that Realtime creates each day would get.
pub fn default_privileges() -> Result<Vec<Finding>, Error> {
    let fixes = catalog::texts(
        "SELECT DISTINCT pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE ALL ON TABLES FROM %s;',
                    o.rolname,
                    CASE WHEN d.defaclnamespace = 0 THEN '' ELSE ' IN SCHEMA realtime' END,
                    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END)
         FROM pg_catalog.pg_default_acl d
         JOIN pg_catalog.pg_roles o ON o.oid = d.defaclrole
         CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) a
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
         WHERE d.defaclobjtype = 'r'
           AND (d.defaclnamespace = pg_catalog.to_regnamespace('realtime')
                OR d.defaclnamespace = 0
                   AND (pg_catalog.has_schema_privilege(o.oid, pg_catalog.to_regnamespace('realtime'), 'CREATE')))
           AND (a.grantee = 0 OR r.rolname IN ('anon', 'authenticated'))
         ORDER BY 1",
        &[],
    )?;
    let finding = |fix: String| {
        let detail = "a new partition of realtime.messages would be open to them under the name of the \
                      partition, where no policy applies";
        bad("default privileges in schema realtime", detail, fix)
    };
    Ok(fixes.into_iter().map(finding).collect())
}

/// Triggers on the guarded tables that belong to neither the services nor pg_civic: each runs as the
/// next role that writes, for example `service_role`.
pub fn triggers_of_others() -> Result<Vec<Finding>, Error> {
    let found = catalog::rows(
        concat!(
            guarded!(),
            "SELECT pg_catalog.format('trigger %s on %I.%I', t.tgname, n.nspname, c.relname),
                    pg_catalog.format('calls function %s of role %s with the rights of each role that changes a row',
                                      p.oid::pg_catalog.regprocedure, f.rolname),
                    pg_catalog.format('DROP TRIGGER %I ON %I.%I;', t.tgname, n.nspname, c.relname)
             FROM guarded g
             JOIN pg_catalog.pg_class c ON c.oid = g.oid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_catalog.pg_trigger t
                  ON t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgparentid = 0
             JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
             JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
             JOIN pg_catalog.pg_roles f ON f.oid = p.proowner
             WHERE NOT (pn.nspname = g.nspname
                        AND (f.oid = g.relowner
                             OR f.rolname IN ('postgres', 'supabase_admin', 'supabase_storage_admin',
                                              'supabase_realtime_admin')))
               AND NOT (pn.nspname = 'civic' AND EXISTS (
                        SELECT FROM pg_catalog.pg_depend d
                        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_civic'
                        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                          AND d.objid = p.oid AND d.deptype = 'e'
                          AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass))
             ORDER BY 1"
        ),
        &[],
        finding,
    )?;
    Ok(found)
}

fn finding(row: &crate::pg::Row<'_, '_>) -> Result<Finding, pgrx::spi::Error> {
    Ok((row.get(1)?.unwrap_or_default(), false, row.get(2)?.unwrap_or_default(), row.get(3)?))
}

/// Views and materialized views that show the guarded tables as their owner sees them.
///
/// A view reads a table as the view's owner, unless it is a `security_invoker` one. So what counts is
/// the owner of the view that names the table, and whether a user may use it or any view over it. A
/// materialized view holds a copy.
pub fn views() -> Result<Vec<Finding>, Error> {
    catalog::rows(
        concat!(
            guarded!(),
            ", leaking AS (
                 -- A view reads what it names itself; a materialized view holds what any below it gave.
                 SELECT DISTINCT c.oid, g.name, r.rolname
                 FROM uses u
                 JOIN guarded g ON g.oid = u.used
                 JOIN pg_catalog.pg_class c ON c.oid = u.view AND c.relkind = 'v'
                 JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
                 WHERE NOT coalesce((SELECT pg_catalog.bool_or(o.option_value::pg_catalog.bool)
                                     FROM pg_catalog.pg_options_to_table(c.reloptions) o
                                     WHERE o.option_name = 'security_invoker'), false)
                   AND ",
            passes!(),
            "    UNION
                 SELECT c.oid, g.name, r.rolname
                 FROM reaching g
                 JOIN pg_catalog.pg_class c ON c.oid = g.view AND c.relkind = 'm'
                 JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
             ), over (leak, view) AS (
                 SELECT oid, oid FROM leaking
                 UNION
                 SELECT o.leak, u.view FROM over o JOIN uses u ON u.used = o.view
             ), granted AS (
                 SELECT o.leak, o.view, pg_catalog.string_agg(p.name, ', ' ORDER BY p.name) AS people
                 FROM over o CROSS JOIN people p
                 WHERE pg_catalog.has_any_column_privilege(p.name, o.view, 'SELECT, INSERT, UPDATE')
                    OR pg_catalog.has_table_privilege(p.name, o.view, 'DELETE')
                 GROUP BY o.leak, o.view
             )
             SELECT pg_catalog.format('view %s', v.view::pg_catalog.regclass),
                    CASE WHEN c.relkind = 'm'
                         THEN pg_catalog.format('holds rows of %s in materialized view %s, open to %s',
                                  l.name, c.oid::pg_catalog.regclass, v.people)
                         ELSE pg_catalog.format('shows %s past row security, as %s, the owner of view %s; open to %s',
                                  l.name, l.rolname, c.oid::pg_catalog.regclass, v.people) END,
                    CASE WHEN c.relkind = 'm'
                         THEN pg_catalog.format('REVOKE ALL ON TABLE %s FROM PUBLIC, %s;',
                                  v.view::pg_catalog.regclass, r.roles)
                         ELSE pg_catalog.format('ALTER VIEW %s SET (security_invoker = true);',
                                  c.oid::pg_catalog.regclass) END
             FROM granted v
             JOIN leaking l ON l.oid = v.leak
             JOIN pg_catalog.pg_class c ON c.oid = l.oid
             CROSS JOIN (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(name), ', ')
                         FROM people WHERE name <> 'public') r (roles)
             ORDER BY 1, 2"
        ),
        &[],
        finding,
    )
}

/// SECURITY DEFINER functions that a user may call and that read or may read the guarded tables past
/// the policies. The catalog has what a body in SQL syntax uses. Of a body that is a string there is only
/// its text.
pub fn functions() -> Result<Vec<Finding>, Error> {
    catalog::rows(
        concat!(
            guarded!(),
            "SELECT pg_catalog.format('function %s', p.oid::pg_catalog.regprocedure),
                    pg_catalog.format('%s %s past row security, as its owner %s; open to %s',
                        CASE WHEN pg_catalog.bool_or(u.is_certain) THEN 'reads' ELSE 'may read' END,
                        pg_catalog.string_agg(DISTINCT g.name, ', '), r.rolname,
                        pg_catalog.string_agg(DISTINCT w.name, ', ')),
                    pg_catalog.format('REVOKE EXECUTE ON ROUTINE %s FROM %s;',
                        p.oid::pg_catalog.regprocedure,
                        pg_catalog.string_agg(DISTINCT CASE w.name WHEN 'public' THEN 'PUBLIC'
                                                       ELSE pg_catalog.quote_ident(w.name) END, ', '))
             FROM guarded g
             JOIN pg_catalog.pg_proc p ON p.prosecdef AND p.prokind IN ('f', 'p')
                  AND p.prorettype NOT IN ('pg_catalog.trigger'::pg_catalog.regtype,
                                           'pg_catalog.event_trigger'::pg_catalog.regtype)
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             JOIN pg_catalog.pg_roles r ON r.oid = p.proowner AND ",
            passes!(),
            " CROSS JOIN LATERAL (
                 SELECT EXISTS (
                     SELECT FROM pg_catalog.pg_depend d
                     WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
                       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                       AND (d.refobjid = g.oid
                            OR d.refobjid IN (SELECT x.view FROM reaching x WHERE x.name = g.name)))
             ) u (is_certain)
             JOIN people w ON pg_catalog.has_function_privilege(w.name, p.oid, 'EXECUTE')
             WHERE (u.is_certain
                    -- By its bare name, where the function itself sets the schema.
                    OR EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) s (setting)
                               WHERE s.setting ~ ('^search_path=.*' || g.nspname))
                       AND p.prosrc ~* (E'\\\\m' || pg_catalog.split_part(g.name, '.', 2) || E'\\\\M')
                    OR p.prosrc ~* (E'\\\\m' || pg_catalog.replace(g.name, '.', E'\"?\\\\s*[.]\\\\s*\"?') || E'\\\\M'))
               -- What the services bring along.
               AND NOT (n.nspname = g.nspname
                        AND (p.proowner = g.relowner
                             OR r.rolname IN ('postgres', 'supabase_admin', 'supabase_storage_admin',
                                              'supabase_realtime_admin')))
             GROUP BY p.oid, r.rolname
             ORDER BY 1"
        ),
        &[],
        finding,
    )
}
