-- The same functions for a caller who has the id as a uuid, as tables hold it. PostgREST tells functions apart
-- by the names of their arguments alone, so these have other names. A literal without a type is text.
CREATE FUNCTION civic.confirm_upload(file_uuid uuid, purpose text, ticket_uuid uuid DEFAULT NULL) RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL UNSAFE COST 1000
    RETURN civic.confirm_upload(file_uuid::pg_catalog.text, purpose, ticket_uuid::pg_catalog.text);
CREATE FUNCTION civic.mark_sensitive(ticket_uuid uuid) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE COST 1000
    RETURN civic.mark_sensitive(ticket_uuid::pg_catalog.text);
CREATE FUNCTION civic.enqueue_media(media_url text, media_content_type text, ticket_uuid uuid, tenant_id text,
                                    is_sensitive boolean DEFAULT false) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE COST 1000
    RETURN civic.enqueue_media(media_url, media_content_type, ticket_uuid::pg_catalog.text, tenant_id,
                               is_sensitive);
CREATE FUNCTION civic.download_and_upload_media(media_url text, media_content_type text, ticket_uuid uuid,
                                                tenant_id text, is_sensitive boolean DEFAULT false) RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL UNSAFE COST 100000
    RETURN civic.download_and_upload_media(media_url, media_content_type, ticket_uuid::pg_catalog.text,
                                           tenant_id, is_sensitive);
