-- The queue of media: the jobs of enqueue_media(), those that move a sensitive ticket's files, and their
-- state.
CREATE TABLE civic.media_jobs (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    kind text NOT NULL DEFAULT 'fetch',
    tenant_id text NOT NULL,
    ticket_id text NOT NULL,
    is_sensitive boolean NOT NULL,
    state text NOT NULL DEFAULT 'queued',
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    next_attempt_at timestamptz DEFAULT pg_catalog.now(),
    started_at timestamptz,
    finished_at timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    bucket text NOT NULL,
    path text,
    file_id uuid,
    last_look boolean NOT NULL DEFAULT false,
    content_type text,
    file_size bigint,
    media_content_type text,
    media_url text,
    -- The firewall, for every writer: sensitive files are in gbv-evidence, and stay there.
    CONSTRAINT media_jobs_bucket CHECK (
        bucket OPERATOR(pg_catalog.=) CASE WHEN is_sensitive THEN 'gbv-evidence' ELSE 'evidence' END),
    CONSTRAINT media_jobs_kind CHECK (
        CASE kind
        WHEN 'fetch' THEN path IS NOT NULL AND file_id IS NOT NULL AND media_content_type IS NOT NULL
                          AND media_url IS NOT NULL AND NOT last_look
        -- It has no file of its own, and ends only when no file of its ticket is left in the open.
        WHEN 'restrict' THEN is_sensitive AND path IS NULL AND file_id IS NULL
                             AND media_content_type IS NULL AND media_url IS NULL
                             AND state IN ('queued', 'running', 'done')
        ELSE false
        END),
    CONSTRAINT media_jobs_state CHECK (
        CASE state
        WHEN 'queued' THEN next_attempt_at IS NOT NULL AND finished_at IS NULL
        WHEN 'running' THEN started_at IS NOT NULL AND next_attempt_at IS NULL AND finished_at IS NULL
        WHEN 'done' THEN finished_at IS NOT NULL AND next_attempt_at IS NULL
                         AND (kind OPERATOR(pg_catalog.=) 'restrict'
                              OR content_type IS NOT NULL AND file_size IS NOT NULL)
        WHEN 'failed' THEN finished_at IS NOT NULL AND next_attempt_at IS NULL
        WHEN 'cancelled' THEN finished_at IS NOT NULL AND next_attempt_at IS NULL
        ELSE false
        END)
);
CREATE INDEX media_jobs_due ON civic.media_jobs (kind, next_attempt_at) WHERE state OPERATOR(pg_catalog.=) 'queued';
CREATE INDEX media_jobs_due_of_tenant ON civic.media_jobs (kind, tenant_id COLLATE "C", next_attempt_at)
    WHERE state OPERATOR(pg_catalog.=) 'queued';
CREATE INDEX media_jobs_running ON civic.media_jobs (id) WHERE state OPERATOR(pg_catalog.=) 'running';
CREATE INDEX media_jobs_finished ON civic.media_jobs (kind, state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX media_jobs_restrict ON civic.media_jobs (tenant_id, ticket_id)
    WHERE kind OPERATOR(pg_catalog.=) 'restrict' AND state IN ('queued', 'running');
CREATE INDEX media_jobs_of_tenant ON civic.media_jobs (tenant_id, created_at);

-- A job is data: pg_dump includes it, so that none is lost with the server.
SELECT pg_catalog.pg_extension_config_dump('civic.media_jobs', '');

-- A user who may read the file sees its job. Only the claims of `authenticated` are trusted: another role
-- could set any claims.
ALTER TABLE civic.media_jobs ENABLE ROW LEVEL SECURITY;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'authenticated') THEN
        CREATE POLICY "civic read" ON civic.media_jobs FOR SELECT TO authenticated
            USING (tenant_id OPERATOR(pg_catalog.=) civic.tenant_id()
                   AND bucket OPERATOR(pg_catalog.=) ANY (civic.readable_buckets()));
    END IF;
END
$$;

COMMENT ON TABLE civic.media_jobs IS 'media jobs, and their state';
COMMENT ON COLUMN civic.media_jobs.kind IS 'fetch: a file comes from Twilio; restrict: the files of a sensitive ticket go to gbv-evidence';
COMMENT ON COLUMN civic.media_jobs.state IS 'queued, running, done, failed or cancelled';
COMMENT ON COLUMN civic.media_jobs.attempts IS 'attempts so far, including the running one';
COMMENT ON COLUMN civic.media_jobs.last_error IS 'why the last attempt failed; contains no secret';
COMMENT ON COLUMN civic.media_jobs.next_attempt_at IS 'when a queued job is due';
COMMENT ON COLUMN civic.media_jobs.started_at IS 'when the last attempt began';
COMMENT ON COLUMN civic.media_jobs.cancel_requested IS 'cancelled while it ran: the worker stops it, unless the file is already stored';
COMMENT ON COLUMN civic.media_jobs.last_look IS 'of a restrict job: nothing was found in the open, and one more look follows';
COMMENT ON COLUMN civic.media_jobs.content_type IS 'of the stored file';
COMMENT ON COLUMN civic.media_jobs.file_size IS 'of the stored file, in bytes';
COMMENT ON COLUMN civic.media_jobs.media_content_type IS 'content type that the webhook named';
COMMENT ON COLUMN civic.media_jobs.media_url IS 'where the file comes from; visible to service_role only';
