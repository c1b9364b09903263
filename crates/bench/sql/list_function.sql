-- What list() of Supabase Storage does in the database (storage.search, ordered by name): for each entry of
-- the folder, the next name in lower case is looked up with a statement whose plan is kept, and a folder is
-- skipped. As there, the caller's row security applies.
CREATE FUNCTION public.list_folder(bucket text, folder text, most int) RETURNS SETOF text
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    found text;
    entry text;
    next_name text := lower(folder);
    after_last text := left(lower(folder), -1) || '0';
BEGIN
    FOR i IN 1 .. most LOOP
        SELECT o.name INTO found FROM storage.objects o
        WHERE o.bucket_id = bucket AND lower(o.name) COLLATE "C" >= next_name
          AND lower(o.name) COLLATE "C" < after_last
        ORDER BY lower(o.name) COLLATE "C" LIMIT 1;
        EXIT WHEN found IS NULL;
        entry := split_part(substr(found, length(folder) + 1), '/', 1);
        RETURN NEXT entry;
        next_name := lower(folder || entry) || '0';
    END LOOP;
END
$$;
