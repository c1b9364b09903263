-- What setup() has granted and revoked, so that teardown() undoes exactly that. Names and not OIDs:
-- the table survives pg_dump and pg_restore.
CREATE TABLE civic.changed_privileges (
    change text NOT NULL,
    object_schema text NOT NULL,
    object_name text NOT NULL,
    -- Empty for a privilege on the whole table.
    column_name text NOT NULL DEFAULT '',
    privilege text NOT NULL,
    -- 'public' is PUBLIC: no role can have this name.
    grantee text NOT NULL,
    grantor text NOT NULL,
    is_grantable boolean NOT NULL DEFAULT false,
    CONSTRAINT changed_privileges_pkey
        PRIMARY KEY (object_schema, object_name, column_name, privilege, grantee, grantor),
    CONSTRAINT changed_privileges_change CHECK (
        change OPERATOR(pg_catalog.=) ANY (ARRAY['granted', 'revoked']))
);
SELECT pg_catalog.pg_extension_config_dump('civic.changed_privileges', '');

-- Likewise what a publication published before setup() changed it.
CREATE TABLE civic.changed_publications (
    publication text NOT NULL,
    publish text NOT NULL,
    CONSTRAINT changed_publications_pkey PRIMARY KEY (publication)
);
SELECT pg_catalog.pg_extension_config_dump('civic.changed_publications', '');

COMMENT ON TABLE civic.changed_privileges IS 'privileges that setup() has granted or revoked on objects outside this schema, and on its trigger function';
COMMENT ON COLUMN civic.changed_privileges.change IS 'granted or revoked';
COMMENT ON COLUMN civic.changed_privileges.column_name IS 'empty for a privilege on the whole object';
COMMENT ON COLUMN civic.changed_privileges.grantee IS 'a role, or public for PUBLIC';
COMMENT ON COLUMN civic.changed_privileges.grantor IS 'the role that had granted a revoked privilege';
COMMENT ON TABLE civic.changed_publications IS 'publications of which setup() has changed what they publish';
COMMENT ON COLUMN civic.changed_publications.publish IS 'what it published before, as ALTER PUBLICATION takes it';
