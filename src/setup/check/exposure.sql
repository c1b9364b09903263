-- Ways around the policies on the guarded tables ($2), and code of others that runs with more rights than
-- its owner has. $1 names the part to look at. $3: functions of the tables' owners in the same schema are the
-- services' own. Columns: component, ok, detail, fix.
WITH RECURSIVE tables AS (
    SELECT c.oid, c.relowner, c.relforcerowsecurity, n.nspname,
           pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE pg_catalog.concat(n.nspname, '.', c.relname) = ANY ($2) AND c.relkind IN ('r', 'p')
), guarded AS (
    SELECT t.oid, t.relowner, t.relforcerowsecurity, t.nspname, t.name FROM tables t
    UNION
    SELECT p.relid, t.relowner, false, t.nspname, t.name
    FROM tables t CROSS JOIN LATERAL pg_catalog.pg_partition_tree(t.oid) p
    WHERE p.relid <> t.oid
), users (oid, rolname, rolsuper, rolbypassrls) AS (
    SELECT r.oid, r.rolname, r.rolsuper, r.rolbypassrls
    FROM pg_catalog.pg_roles r WHERE r.rolname IN ('anon', 'authenticated')
), people (name) AS (
    SELECT 'public'
    UNION ALL
    -- Users, and each role that they can become.
    SELECT DISTINCT m.rolname
    FROM users u
    JOIN pg_catalog.pg_roles m ON pg_catalog.pg_has_role(u.oid, m.oid, 'MEMBER')
    WHERE NOT u.rolsuper AND NOT m.rolsuper AND NOT m.rolbypassrls
), services (rolname) AS (
    VALUES ('postgres'), ('supabase_admin'), ('supabase_storage_admin'), ('supabase_realtime_admin')
),
-- To which roles no policy of a guarded table applies.
passing AS (
    SELECT g.oid AS guarded, r.oid AS role, r.rolname
    FROM guarded g
    JOIN pg_catalog.pg_roles r
         ON r.rolsuper OR r.rolbypassrls
         OR pg_catalog.pg_has_role(r.oid, g.relowner, 'USAGE') AND NOT g.relforcerowsecurity
),
-- Which views read which relations, themselves and through other views.
uses AS (
    SELECT DISTINCT w.ev_class AS view, d.refobjid AS used
    FROM pg_catalog.pg_rewrite w
    JOIN pg_catalog.pg_depend d
         ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> w.ev_class
), reaching (view, name) AS (
    SELECT u.view, g.name FROM uses u JOIN guarded g ON g.oid = u.used
    UNION
    SELECT u.view, x.name FROM reaching x JOIN uses u ON u.used = x.view
),

-- Whether users pass row security, have the rights of the owner of a guarded table, or can read or write
-- the files of the server. Membership counts whether inherited or not: SET ROLE is one statement away.
faults_of_users (role, fix) AS (
    SELECT u.rolname, pg_catalog.format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS;', u.rolname)
    FROM users u WHERE u.rolsuper OR u.rolbypassrls
    UNION
    -- Never to a superuser: what is on the table would run with its rights.
    SELECT u.rolname,
           CASE WHEN u.oid = t.relowner
                THEN pg_catalog.format('ALTER TABLE %s OWNER TO %I;', t.name,
                         coalesce(s.rolname, pg_catalog.pg_get_userbyid(n.nspowner)))
                ELSE pg_catalog.format('REVOKE %I FROM %I;',
                         pg_catalog.pg_get_userbyid(t.relowner), u.rolname) END
    FROM users u
    JOIN tables t ON pg_catalog.pg_has_role(u.oid, t.relowner, 'MEMBER')
    JOIN pg_catalog.pg_namespace n ON n.nspname = t.nspname
    LEFT JOIN pg_catalog.pg_roles s ON s.rolname = pg_catalog.concat('supabase_', t.nspname, '_admin')
    WHERE NOT u.rolsuper
    UNION
    SELECT u.rolname, pg_catalog.format('REVOKE %I FROM %I;', o.rolname, m.rolname)
    FROM users u
    JOIN pg_catalog.pg_roles m ON pg_catalog.pg_has_role(u.oid, m.oid, 'MEMBER')
    JOIN pg_catalog.pg_auth_members g ON g.member = m.oid
    JOIN pg_catalog.pg_roles o ON o.oid = g.roleid
    WHERE NOT u.rolsuper AND NOT m.rolsuper AND NOT m.rolbypassrls
      AND (o.rolsuper OR o.rolbypassrls
           OR o.rolname IN ('pg_read_server_files', 'pg_write_server_files',
                            'pg_execute_server_program'))
), roles (component, ok, detail, fix) AS (
    SELECT pg_catalog.concat('role ', u.rolname), pg_catalog.count(f.fix) = 0,
           CASE WHEN pg_catalog.count(f.fix) = 0 THEN 'subject to row security'
                ELSE 'passes row security, has the rights of the owner of a guarded table, or uses files'
                     ' of the server, by itself or as a member of another role' END,
           pg_catalog.string_agg(f.fix, ' ')
    FROM users u LEFT JOIN faults_of_users f ON f.role = u.rolname
    GROUP BY u.rolname
),

-- If a superuser owns a guarded table, code that others have put on it runs with a superuser's rights:
-- statements on the table run as its owner.
owners (component, ok, detail, fix) AS (
    SELECT pg_catalog.concat('owner of ', t.name), false,
           pg_catalog.format('%s is a superuser: triggers and defaults on the table run with these rights',
                             r.rolname),
           pg_catalog.format('ALTER TABLE %s OWNER TO %I;', t.name, s.rolname)
    FROM tables t
    JOIN pg_catalog.pg_roles r ON r.oid = t.relowner AND r.rolsuper
    LEFT JOIN pg_catalog.pg_roles s
         ON s.rolname = pg_catalog.concat('supabase_', t.nspname, '_admin') AND NOT s.rolsuper
),

-- Privileges that the partitions that Realtime creates each day would get.
default_privileges (component, ok, detail, fix) AS (
    SELECT DISTINCT 'default privileges in schema realtime', false,
           'a new partition of realtime.messages would be open to them under its own name, where no policy'
           ' applies',
           pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE ALL ON TABLES FROM %s;',
               o.rolname, CASE WHEN d.defaclnamespace = 0 THEN '' ELSE ' IN SCHEMA realtime' END,
               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(u.rolname) END)
    FROM pg_catalog.pg_default_acl d
    JOIN pg_catalog.pg_roles o ON o.oid = d.defaclrole
    JOIN pg_catalog.pg_namespace n
         ON n.nspname = 'realtime'
        AND (d.defaclnamespace = n.oid
             OR d.defaclnamespace = 0 AND pg_catalog.has_schema_privilege(o.oid, n.oid, 'CREATE'))
    CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) a
    LEFT JOIN users u ON u.oid = a.grantee
    WHERE d.defaclobjtype = 'r' AND (a.grantee = 0 OR u.oid IS NOT NULL)
      AND 'realtime.messages' IN (SELECT t.name FROM tables t)
),

-- Triggers on the guarded tables that belong to neither the services nor pg_civic: each runs as the next
-- role that writes, for example service_role.
triggers (component, ok, detail, fix) AS (
    SELECT pg_catalog.format('trigger %s on %I.%I', t.tgname, n.nspname, c.relname), false,
           pg_catalog.format('calls function %s of role %s with the rights of each role that changes a row',
                             p.oid::pg_catalog.regprocedure, f.rolname),
           pg_catalog.format('DROP TRIGGER %I ON %I.%I;', t.tgname, n.nspname, c.relname)
    FROM guarded g
    JOIN pg_catalog.pg_class c ON c.oid = g.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgparentid = 0
    JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
    JOIN pg_catalog.pg_roles f ON f.oid = p.proowner
    WHERE NOT (pn.nspname = g.nspname
               AND (f.oid = g.relowner OR f.rolname IN (SELECT s.rolname FROM services s)))
      AND NOT (pn.nspname = 'civic' AND EXISTS (
               SELECT FROM pg_catalog.pg_depend d
               JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_civic'
               WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                 AND d.objid = p.oid AND d.deptype = 'e'
                 AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass))
),

-- Views and materialized views that show the guarded tables as their owner sees them. A view reads a table
-- as the view's owner, unless it is a security_invoker one. So what counts is the owner of the view that
-- names the table, and whether a user may use it or any view over it. A materialized view holds a copy of
-- what any view below it has read.
leaking AS (
    SELECT DISTINCT c.oid, g.name, p.rolname
    FROM uses u
    JOIN guarded g ON g.oid = u.used
    JOIN pg_catalog.pg_class c ON c.oid = u.view AND c.relkind = 'v'
    JOIN passing p ON p.guarded = g.oid AND p.role = c.relowner
    WHERE NOT coalesce((SELECT pg_catalog.bool_or(o.option_value::pg_catalog.bool)
                        FROM pg_catalog.pg_options_to_table(c.reloptions) o
                        WHERE o.option_name = 'security_invoker'), false)
    UNION
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
), views (component, ok, detail, fix) AS (
    SELECT pg_catalog.format('view %s', v.view::pg_catalog.regclass), false,
           CASE WHEN c.relkind = 'm'
                THEN pg_catalog.format('holds rows of %s in materialized view %s, open to %s',
                         l.name, c.oid::pg_catalog.regclass, v.people)
                ELSE pg_catalog.format('shows %s past row security, as %s, the owner of view %s; open to %s',
                         l.name, l.rolname, c.oid::pg_catalog.regclass, v.people) END,
           CASE WHEN c.relkind = 'm'
                THEN pg_catalog.format('REVOKE ALL ON TABLE %s FROM PUBLIC, %s;',
                         v.view::pg_catalog.regclass,
                         (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(name), ', ')
                          FROM people WHERE name <> 'public'))
                ELSE pg_catalog.format('ALTER VIEW %s SET (security_invoker = true);',
                         c.oid::pg_catalog.regclass) END
    FROM granted v
    JOIN leaking l ON l.oid = v.leak
    JOIN pg_catalog.pg_class c ON c.oid = l.oid
),

-- SECURITY DEFINER functions that a user may call and that read or may read the guarded tables past the
-- policies. The catalog has what a body in SQL syntax uses. Of a body that is a string there is only its
-- text.
functions (component, ok, detail, fix) AS (
    SELECT pg_catalog.format('function %s', p.oid::pg_catalog.regprocedure), false,
           pg_catalog.format('%s %s past row security, as its owner %s; open to %s',
               CASE WHEN pg_catalog.bool_or(u.is_certain) THEN 'reads' ELSE 'may read' END,
               pg_catalog.string_agg(DISTINCT g.name, ', '), r.rolname,
               pg_catalog.string_agg(DISTINCT w.name, ', ')),
           pg_catalog.format('REVOKE EXECUTE ON ROUTINE %s FROM %s;', p.oid::pg_catalog.regprocedure,
               pg_catalog.string_agg(DISTINCT CASE w.name WHEN 'public' THEN 'PUBLIC'
                                              ELSE pg_catalog.quote_ident(w.name) END, ', '))
    FROM guarded g
    JOIN passing r ON r.guarded = g.oid
    JOIN pg_catalog.pg_proc p
         ON p.proowner = r.role AND p.prosecdef AND p.prokind IN ('f', 'p')
        AND p.prorettype NOT IN ('pg_catalog.trigger'::pg_catalog.regtype,
                                 'pg_catalog.event_trigger'::pg_catalog.regtype)
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    CROSS JOIN LATERAL (
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
              AND p.prosrc ~* (E'\\m' || pg_catalog.split_part(g.name, '.', 2) || E'\\M')
           OR p.prosrc ~* (E'\\m' || pg_catalog.replace(g.name, '.', E'"?\\s*[.]\\s*"?') || E'\\M'))
      -- Functions of the services.
      AND NOT ($3 AND n.nspname = g.nspname
               AND (p.proowner = g.relowner OR r.rolname IN (SELECT s.rolname FROM services s)))
    GROUP BY p.oid, r.rolname
)
SELECT * FROM roles WHERE $1 = 'roles'
UNION ALL
SELECT * FROM owners WHERE $1 = 'owners'
UNION ALL
SELECT * FROM default_privileges WHERE $1 = 'default privileges'
UNION ALL
SELECT * FROM triggers WHERE $1 = 'triggers of others'
UNION ALL
SELECT * FROM views WHERE $1 = 'views'
UNION ALL
SELECT * FROM functions WHERE $1 = 'functions'
ORDER BY 1, 3, 4
