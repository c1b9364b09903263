-- PostgREST serves a function that returns a domain of this name as this media type.
CREATE DOMAIN civic."text/event-stream" AS text;
COMMENT ON DOMAIN civic."text/event-stream" IS 'Server-Sent Events; the name is their media type, as PostgREST requires';
