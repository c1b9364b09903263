-- What monitoring reads.
CREATE VIEW civic.metrics AS SELECT name, labels, value, help FROM civic.metrics();

-- Default privileges may have granted rights on the new view.
DO $$
DECLARE
    grantee pg_catalog.regrole;
BEGIN
    FOR grantee IN
        SELECT DISTINCT acl.grantee FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) acl
        WHERE c.oid OPERATOR(pg_catalog.=) 'civic.metrics'::pg_catalog.regclass
          AND acl.grantee OPERATOR(pg_catalog.<>) c.relowner AND acl.grantee OPERATOR(pg_catalog.<>) 0
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON civic.metrics FROM %s', grantee);
    END LOOP;
END
$$;
REVOKE ALL ON civic.metrics FROM PUBLIC;
GRANT SELECT ON civic.metrics TO pg_monitor;

COMMENT ON VIEW civic.metrics IS 'numbers for monitoring, by Prometheus'' conventions';
COMMENT ON COLUMN civic.metrics.labels IS 'an object of texts; no label names a municipality, a ticket or a file';
COMMENT ON COLUMN civic.metrics.value IS 'of a name that ends in _total a counter since the server''s start, else a gauge';
