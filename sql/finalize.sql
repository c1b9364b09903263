-- Who may call what. Every function is named here; a test holds this list against the catalog.

-- They read nothing from a row, so they cannot leak anything of it: the planner may use them in the
-- index condition of a guarded table.
ALTER FUNCTION civic.readable_buckets() LEAKPROOF;
ALTER FUNCTION civic.tenant_folder_start() LEAKPROOF;
ALTER FUNCTION civic.tenant_folder_end() LEAKPROOF;

-- Default privileges may have granted rights on the new objects: to call functions that use the
-- service key, to create objects in the schema, to put a trigger on a table that the worker changes.
DO $$
DECLARE
    grantee pg_catalog.regrole;
BEGIN
    FOR grantee IN
        SELECT acl.grantee
        FROM (SELECT proowner, proacl FROM pg_catalog.pg_proc
              WHERE pronamespace OPERATOR(pg_catalog.=) 'civic'::pg_catalog.regnamespace
              UNION ALL
              SELECT relowner, relacl FROM pg_catalog.pg_class
              WHERE relnamespace OPERATOR(pg_catalog.=) 'civic'::pg_catalog.regnamespace
              UNION ALL
              SELECT nspowner, nspacl FROM pg_catalog.pg_namespace
              WHERE oid OPERATOR(pg_catalog.=) 'civic'::pg_catalog.regnamespace) object (owner, acl),
             pg_catalog.aclexplode(object.acl) acl
        WHERE acl.grantee OPERATOR(pg_catalog.<>) object.owner AND acl.grantee OPERATOR(pg_catalog.<>) 0
        GROUP BY acl.grantee
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA civic FROM %s', grantee);
        EXECUTE pg_catalog.format('REVOKE ALL ON ALL TABLES IN SCHEMA civic FROM %s', grantee);
        EXECUTE pg_catalog.format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA civic FROM %s', grantee);
        EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA civic FROM %s', grantee);
    END LOOP;
END
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA civic FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA civic FROM PUBLIC;
REVOKE ALL ON SCHEMA civic FROM PUBLIC;
GRANT USAGE ON SCHEMA civic TO PUBLIC;

-- Rules over the caller's claims, and pure functions.
GRANT EXECUTE ON FUNCTION
    civic.tenant_id(),
    civic.tenant_uuid(),
    civic.user_uuid(),
    civic.staff_floor(),
    civic.staff_floor_uuid(),
    civic.user_role(),
    civic.user_id(),
    civic.has_role(text[]),
    civic.bucket_for_purpose(text),
    civic.bucket_for_media(boolean),
    civic.file_extension(text),
    civic.object_path(text, text, text),
    civic.generate_upload_url(text, text, text, text, text),
    civic.can_read_object(text, text),
    civic.can_upload_object(text, text),
    civic.readable_buckets(),
    civic.tenant_folder_start(),
    civic.tenant_folder_end(),
    civic.can_join_channel(text),
    civic.dashboard_events(text),
    civic.in_tenant_folder(text),
    civic.list_bounds(text),
    civic.request_upload(text, text, bigint, text),
    civic.ticket_channel(text),
    civic.ticket_payload(text, jsonb)
TO PUBLIC;

-- The operator's functions are not for those who come in through the gateway. They do nothing that the caller
-- could not do by hand: the database's owner, who need not be a superuser, calls them too.
GRANT EXECUTE ON FUNCTION civic.setup(regclass), civic.teardown(), civic.check(), civic.relay_stats(),
    civic.protect(regclass, text, text[], text, text, text, text[], text), civic.unprotect(regclass)
    TO pg_database_owner;
-- The view civic.metrics calls its function with the rights of the reader.
GRANT EXECUTE ON FUNCTION civic.check(), civic.metrics(), civic.relay_stats() TO pg_monitor;
GRANT SELECT ON civic.metrics TO pg_monitor;

-- Clients trust the events of a municipality's channel: only the server's side sends them. PUBLIC gets
-- neither publish() nor the trigger function, with which the owner of any table could send events.
-- setup() grants the trigger function to the owner of the table of tickets, who creates the trigger.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'service_role') THEN
        GRANT EXECUTE ON FUNCTION civic.publish(text, jsonb, boolean) TO service_role;
        -- The worker does its jobs with the service key.
        GRANT EXECUTE ON FUNCTION
            civic.enqueue_media(text, text, text, text, boolean),
            civic.enqueue_media(text, text, uuid, text, boolean),
            civic.cancel_media_job(uuid),
            civic.retry_media_job(uuid)
        TO service_role;
        GRANT SELECT ON civic.media_jobs TO service_role;
    END IF;
END
$$;

-- Functions that use the service key or Twilio are for the server's side only. Functions that trust
-- claims are for the role whose claims the gateway has verified: another role could set any claims.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'service_role') THEN
        GRANT EXECUTE ON FUNCTION
            civic.upload_file(text, text, bytea, text),
            civic.get_signed_url(text, text, bigint),
            civic.download_and_upload_media(text, text, text, text, boolean),
            civic.download_and_upload_media(text, text, uuid, text, boolean)
        TO service_role;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'authenticated') THEN
        GRANT EXECUTE ON FUNCTION
            civic.confirm_upload(text, text, text),
            civic.confirm_upload(uuid, text, uuid),
            civic.get_signed_url(text, text, bigint),
            civic.mark_sensitive(text),
            civic.mark_sensitive(uuid)
        TO authenticated;
        -- Not media_url, which opens the file for some time, without any policy.
        GRANT SELECT (id, kind, tenant_id, ticket_id, is_sensitive, state, attempts, last_error, created_at,
                      next_attempt_at, started_at, finished_at, cancel_requested, bucket, path, file_id,
                      last_look, content_type, file_size, media_content_type)
            ON civic.media_jobs TO authenticated;
    END IF;
END
$$;

COMMENT ON SCHEMA civic IS 'pg_civic: tenant-guarded storage and ticket events';
COMMENT ON FUNCTION civic.tenant_id() IS 'the caller''s municipality, from the claims; NULL if there is none';
COMMENT ON FUNCTION civic.user_role() IS 'the caller''s role in the application, as written in the claims; NULL if there is none';
COMMENT ON FUNCTION civic.user_id() IS 'the caller''s user id (claim sub); NULL if there is none';
COMMENT ON FUNCTION civic.tenant_uuid() IS 'the caller''s municipality as a uuid; NULL if it is none';
COMMENT ON FUNCTION civic.user_uuid() IS 'the caller''s user id as a uuid; NULL if it is none';
COMMENT ON FUNCTION civic.staff_floor() IS 'the least text for roles in civic.staff_readers, else NULL: for policies on a column of text';
COMMENT ON FUNCTION civic.staff_floor_uuid() IS 'the least uuid for roles in civic.staff_readers, else NULL: for policies on a column of uuid';
COMMENT ON FUNCTION civic.has_role(text[]) IS 'whether the caller''s role is one of these, without regard to ASCII case';
COMMENT ON FUNCTION civic.bucket_for_purpose(text) IS 'the bucket that serves a purpose';
COMMENT ON FUNCTION civic.bucket_for_media(boolean) IS 'the bucket for a ticket''s media';
COMMENT ON FUNCTION civic.file_extension(text) IS 'the filename extension of a media type, bin for an unknown one';
COMMENT ON FUNCTION civic.object_path(text, text, text) IS '{tenant}/{folder}/{filename}, the filename made safe';
COMMENT ON FUNCTION civic.generate_upload_url(text, text, text, text, text) IS 'where an upload goes: {bucket, path, file_id}';
COMMENT ON FUNCTION civic.can_read_object(text, text) IS 'whether the caller may read an object of this name in this bucket';
COMMENT ON FUNCTION civic.can_upload_object(text, text) IS 'whether the caller may add an object of this name to this bucket';
COMMENT ON FUNCTION civic.readable_buckets() IS 'the buckets in which the caller reads their own tenant''s folder';
COMMENT ON FUNCTION civic.tenant_folder_start() IS 'the first name that the caller''s folder can hold, in byte order';
COMMENT ON FUNCTION civic.tenant_folder_end() IS 'the first name after the caller''s folder, in byte order';
COMMENT ON FUNCTION civic.in_tenant_folder(text) IS 'whether a name is in the caller''s folder; the planner makes it a range of an index';
COMMENT ON FUNCTION civic.in_tenant_folder_support(internal) IS 'planner support of in_tenant_folder()';
COMMENT ON FUNCTION civic.list_bounds(text) IS 'true; behind a policy, where the planner makes it the bounds of a list';
COMMENT ON FUNCTION civic.list_bounds_support(internal) IS 'planner support of list_bounds()';
COMMENT ON FUNCTION civic.ticket_channel(text) IS 'the channel on which a municipality''s events are published';
COMMENT ON FUNCTION civic.ticket_payload(text, jsonb) IS 'the event that the trigger sends for a ticket, given as the JSON of its row';
COMMENT ON FUNCTION civic.notify_ticket_update() IS 'trigger: publishes each change of a ticket';
COMMENT ON FUNCTION civic.publish(text, jsonb, boolean) IS 'sends an event of the application to a municipality';
COMMENT ON FUNCTION civic.enqueue_media(text, text, text, text, boolean) IS 'queues a job: the worker fetches media of a ticket and stores it; returns the id of the job';
COMMENT ON FUNCTION civic.enqueue_media(text, text, uuid, text, boolean) IS 'enqueue_media() for a ticket id of type uuid';
COMMENT ON FUNCTION civic.download_and_upload_media(text, text, uuid, text, boolean) IS 'download_and_upload_media() for a ticket id of type uuid';
COMMENT ON FUNCTION civic.cancel_media_job(uuid) IS 'cancels a media job';
COMMENT ON FUNCTION civic.retry_media_job(uuid) IS 'makes a queued, failed or cancelled media job due at once';
COMMENT ON FUNCTION civic.can_join_channel(text) IS 'behind the policies on realtime.messages: whether the caller may join this channel of their municipality, or this topic of their own tickets';
COMMENT ON FUNCTION civic.dashboard_events(text) IS 'deprecated: Server-Sent Events that say where the events are now';
COMMENT ON FUNCTION civic.relay_stats() IS 'the state of the relay: one row';
COMMENT ON FUNCTION civic.metrics() IS 'behind the view civic.metrics';
COMMENT ON FUNCTION civic.request_upload(text, text, bigint, text) IS 'where the caller''s own upload goes, with a new file id: {bucket, path, file_id}';
COMMENT ON FUNCTION civic.confirm_upload(text, text, text) IS 'records a finished upload; the same row at each call';
COMMENT ON FUNCTION civic.confirm_upload(uuid, text, uuid) IS 'confirm_upload() for a file id of type uuid';
COMMENT ON FUNCTION civic.upload_file(text, text, bytea, text) IS 'uploads a file with the service key: {bucket, path}';
COMMENT ON FUNCTION civic.get_signed_url(text, text, bigint) IS 'a link to a file that the caller may read, valid for some seconds';
COMMENT ON FUNCTION civic.download_and_upload_media(text, text, text, text, boolean) IS 'fetches media and stores it where the ticket''s media goes, while the caller waits';
COMMENT ON FUNCTION civic.setup(regclass) IS 'guards the buckets and publishes the changes of a table of tickets; can be repeated';
COMMENT ON FUNCTION civic.teardown() IS 'undoes setup(); buckets that hold objects stay';
COMMENT ON FUNCTION civic.check() IS 'what is right, what is not, and the statement that fixes it';
COMMENT ON FUNCTION civic.protect(regclass, text, text[], text, text, text, text[], text) IS 'puts a table of the application under the rules of its municipality; can be repeated';
COMMENT ON FUNCTION civic.unprotect(regclass) IS 'undoes protect(); row security stays enabled';
COMMENT ON FUNCTION civic.mark_sensitive(text) IS 'marks a ticket that the caller sees as staff, or that is assigned to them, as sensitive';
COMMENT ON FUNCTION civic.mark_sensitive(uuid) IS 'mark_sensitive() for a ticket id of type uuid';
