-- The tables that civic.protect() has put under its rules, with the columns that the rules are about. Names
-- and not OIDs: the table survives pg_dump and pg_restore.
CREATE TABLE civic.protected_tables (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    tenant_column text NOT NULL,
    owner_columns text[] NOT NULL,
    assigned_column text,
    sensitive_column text,
    ticket_column text,
    guarded_columns text[] NOT NULL,
    readable text NOT NULL,
    CONSTRAINT protected_tables_pkey PRIMARY KEY (schema_name, table_name),
    CONSTRAINT protected_tables_readable CHECK (
        readable OPERATOR(pg_catalog.=) ANY (ARRAY['staff', 'tenant']))
);
SELECT pg_catalog.pg_extension_config_dump('civic.protected_tables', '');

COMMENT ON TABLE civic.protected_tables IS 'tables that protect() has put under its rules, and the columns that the rules are about';
COMMENT ON COLUMN civic.protected_tables.readable IS 'staff: the roles in civic.staff_readers; tenant: every user of the municipality';
