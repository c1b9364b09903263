-- Ways around the policies of the protected tables ($2, with partitions and children), and tables that are
-- not protected. $1 names the part to look at. Columns: component, ok, detail, fix.
WITH RECURSIVE people (name, fix) AS (
    SELECT 'public'::pg_catalog.text, 'PUBLIC'::pg_catalog.text
    UNION ALL
    SELECT r.rolname::pg_catalog.text, pg_catalog.quote_ident(r.rolname)
    FROM pg_catalog.pg_roles r WHERE r.rolname IN ('anon', 'authenticated') AND NOT r.rolsuper
), protected AS (
    SELECT c.oid, c.relowner, c.relforcerowsecurity, c.oid::pg_catalog.regclass::pg_catalog.text AS name
    FROM pg_catalog.pg_class c WHERE c.oid = ANY ($2)
),

-- Views that read a protected table, themselves or through other views. A view reads a table as the
-- owner of the view, unless it is a security_invoker one. A materialized view holds what its owner has read.
uses AS (
    SELECT DISTINCT w.ev_class AS view, d.refobjid AS used
    FROM pg_catalog.pg_rewrite w
    JOIN pg_catalog.pg_depend d
         ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> w.ev_class
), reaching (view, used, name) AS (
    SELECT u.view, u.used, p.name FROM uses u JOIN protected p ON p.oid = u.used
    UNION
    SELECT u.view, u.used, x.name FROM reaching x JOIN uses u ON u.used = x.view
), leaking AS (
    SELECT DISTINCT c.oid, x.name, r.rolname
    FROM reaching x
    JOIN pg_catalog.pg_class c ON c.oid = x.view AND c.relkind = 'v'
    JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
    JOIN protected p ON p.oid = x.used
    WHERE (r.rolsuper OR r.rolbypassrls
           OR pg_catalog.pg_has_role(r.oid, p.relowner, 'USAGE') AND NOT p.relforcerowsecurity)
      AND NOT coalesce((SELECT pg_catalog.bool_or(o.option_value::pg_catalog.bool)
                        FROM pg_catalog.pg_options_to_table(c.reloptions) o
                        WHERE o.option_name = 'security_invoker'), false)
    UNION
    SELECT c.oid, x.name, r.rolname
    FROM reaching x
    JOIN pg_catalog.pg_class c ON c.oid = x.view AND c.relkind = 'm'
    JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
), over (leak, view) AS (
    SELECT oid, oid FROM leaking
    UNION
    SELECT o.leak, u.view FROM over o JOIN uses u ON u.used = o.view
), granted AS (
    SELECT o.leak, o.view,
           pg_catalog.string_agg(p.name, ', ' ORDER BY p.name)
               FILTER (WHERE pg_catalog.has_any_column_privilege(p.name, o.view, 'SELECT')) AS readers,
           pg_catalog.string_agg(p.name, ', ' ORDER BY p.name)
               FILTER (WHERE w.rights <> '') AS writers,
           pg_catalog.max(w.rights) AS rights,
           pg_catalog.string_agg(p.fix, ', ' ORDER BY p.name) AS grantees
    FROM over o
    CROSS JOIN people p
    CROSS JOIN LATERAL (
        -- Bits of pg_relation_is_updatable: UPDATE 4, INSERT 8, DELETE 16.
        SELECT pg_catalog.concat_ws(', ',
            CASE WHEN u.kinds & 8 <> 0 AND pg_catalog.has_any_column_privilege(p.name, o.view, 'INSERT')
                 THEN 'INSERT' END,
            CASE WHEN u.kinds & 4 <> 0 AND pg_catalog.has_any_column_privilege(p.name, o.view, 'UPDATE')
                 THEN 'UPDATE' END,
            CASE WHEN u.kinds & 16 <> 0 AND pg_catalog.has_table_privilege(p.name, o.view, 'DELETE')
                 THEN 'DELETE' END)
        FROM (SELECT pg_catalog.pg_relation_is_updatable(o.view, true)) u (kinds)
    ) w (rights)
    GROUP BY o.leak, o.view
), views (component, ok, detail, fix) AS (
    SELECT pg_catalog.format('view %s', g.view::pg_catalog.regclass), false,
           pg_catalog.concat_ws('; ',
               pg_catalog.format('%s %s past row security, as %s, the owner of %s',
                   CASE c.relkind WHEN 'm' THEN 'holds rows of' ELSE 'shows' END,
                   l.name, l.rolname, c.oid::pg_catalog.regclass),
               'WRITABLE (' || g.rights || ') by ' || g.writers,
               'readable by ' || g.readers,
               'columns: ' || (SELECT pg_catalog.string_agg(a.attname, ', ' ORDER BY a.attnum)
                               FROM pg_catalog.pg_attribute a
                               WHERE a.attrelid = g.view AND a.attnum > 0 AND NOT a.attisdropped)),
           CASE WHEN c.relkind = 'm'
                THEN pg_catalog.format('REVOKE ALL ON TABLE %s FROM %s;',
                                       g.view::pg_catalog.regclass, g.grantees)
                WHEN g.writers IS NOT NULL
                THEN pg_catalog.format('REVOKE INSERT, UPDATE, DELETE ON TABLE %s FROM %s;',
                                       g.view::pg_catalog.regclass, g.grantees)
                ELSE pg_catalog.format('ALTER VIEW %s SET (security_invoker = true);',
                                       c.oid::pg_catalog.regclass) END
    FROM granted g
    JOIN leaking l ON l.oid = g.leak
    JOIN pg_catalog.pg_class c ON c.oid = l.oid
    WHERE g.readers IS NOT NULL OR g.writers IS NOT NULL
),

-- Foreign keys that change rows of a protected table, past its policies, when a row of an open table
-- changes.
cascades (component, ok, detail, fix) AS (
    SELECT pg_catalog.format('foreign key %s of %s', k.conname, p.name), false,
           pg_catalog.format('a DELETE or UPDATE in %s changes rows of %s past row security; open to %s',
                             k.confrelid::pg_catalog.regclass, p.name,
                             pg_catalog.string_agg(w.name, ', ' ORDER BY w.name)),
           pg_catalog.format('REVOKE DELETE, UPDATE ON TABLE %s FROM %s;',
                             k.confrelid::pg_catalog.regclass,
                             pg_catalog.string_agg(w.fix, ', ' ORDER BY w.name))
    FROM protected p
    JOIN pg_catalog.pg_constraint k ON k.conrelid = p.oid AND k.contype = 'f' AND k.conparentid = 0
    JOIN people w
         ON k.confdeltype IN ('c', 'n', 'd')
            AND pg_catalog.has_table_privilege(w.name, k.confrelid, 'DELETE')
         OR k.confupdtype IN ('c', 'n', 'd')
            AND pg_catalog.has_any_column_privilege(w.name, k.confrelid, 'UPDATE')
    WHERE k.confrelid <> ALL ($2)
    GROUP BY k.conname, k.confrelid, p.name
),

-- Tables of the application that are not protected.
open (oid, detail) AS (
    SELECT c.oid,
           pg_catalog.concat_ws(', ',
               CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger t
                                 WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
                                   AND t.tgfoid = pg_catalog.to_regprocedure('civic.notify_ticket_update()'))
                    THEN 'holds tickets' END,
               CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_publication_tables b
                                 WHERE b.pubname = 'supabase_realtime' AND b.schemaname = n.nspname
                                   AND b.tablename = c.relname)
                    THEN 'is published' END,
               CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                 WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.attnum > 0
                                   AND NOT a.attisdropped)
                    THEN 'has a column tenant_id' END)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid <> ALL ($2)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
      AND n.nspname !~ '^pg_'
      AND n.nspname NOT IN ('information_schema', 'civic', 'civic_firewall', 'storage', 'realtime',
                            '_realtime', 'auth')
)
SELECT * FROM views WHERE $1 = 'views'
UNION ALL
SELECT * FROM cascades WHERE $1 = 'cascades'
UNION ALL
SELECT o.oid::pg_catalog.text,
       NOT EXISTS (SELECT FROM people w
                   WHERE pg_catalog.has_any_column_privilege(w.name, o.oid, 'SELECT, INSERT, UPDATE')
                      OR pg_catalog.has_table_privilege(w.name, o.oid, 'DELETE, TRUNCATE')),
       o.detail, NULL
FROM open o WHERE $1 = 'open' AND o.detail <> ''
ORDER BY 1, 3, 4
