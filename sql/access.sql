-- The read rule, for queries. The planner inlines it, so that a query becomes a range of the index
-- (bucket_id, name COLLATE "C"): hence SQL, not STRICT, no SET, one expression. Its body is parsed
-- when it is created, so no caller's search_path can give its operators another meaning.
CREATE FUNCTION civic.can_read_object(bucket_id text, name text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE COST 10
    RETURN bucket_id OPERATOR(pg_catalog.=) ANY (civic.readable_buckets())
       AND name COLLATE pg_catalog."C" OPERATOR(pg_catalog.>=) civic.tenant_folder_start()
       AND name COLLATE pg_catalog."C" OPERATOR(pg_catalog.<) civic.tenant_folder_end();

-- What the planner makes of the policies on storage.objects.
CREATE FUNCTION civic.in_tenant_folder_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1
    AS 'MODULE_PATHNAME', 'civic_in_tenant_folder_support';
ALTER FUNCTION civic.in_tenant_folder(text) SUPPORT civic.in_tenant_folder_support;
CREATE FUNCTION civic.list_bounds_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1
    AS 'MODULE_PATHNAME', 'civic_list_bounds_support';
ALTER FUNCTION civic.list_bounds(text) SUPPORT civic.list_bounds_support;
