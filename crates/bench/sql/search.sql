-- The query with which Supabase Storage looks for the next names of a folder (listV2:
-- storage.list_objects_with_delimiter): dynamic SQL, planned each time. It fails where it finds nothing:
-- then the sides would compare nothing.
DO $$
DECLARE
    found text;
BEGIN
    FOR i IN 1 .. :searches LOOP
        EXECUTE 'SELECT o.name FROM storage.objects o
                 WHERE o.bucket_id = $1 AND o.name COLLATE "C" >= $2
                   AND o.name COLLATE "C" < $3
                 ORDER BY o.name COLLATE "C" ASC LIMIT 1'
            INTO STRICT found USING 'evidence', ':tenant/', ':tenant0';
    END LOOP;
END
$$;
