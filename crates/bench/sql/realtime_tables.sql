-- The tickets table four times: without a trigger, with ours, with the migrations', and with one
-- that only inserts the same message into realtime.messages by itself.
ALTER TABLE public.tickets ADD COLUMN ward_id varchar(100);
CREATE TABLE public.tickets_silent (LIKE public.tickets INCLUDING DEFAULTS);
CREATE TABLE public.tickets_plain (LIKE public.tickets INCLUDING DEFAULTS);
CREATE TABLE public.tickets_civic (LIKE public.tickets INCLUDING DEFAULTS);
CREATE TABLE public.tickets_bare (LIKE public.tickets INCLUDING DEFAULTS);
CREATE TRIGGER ticket_update_notify AFTER INSERT OR UPDATE ON public.tickets_plain
    FOR EACH ROW EXECUTE FUNCTION public.notify_ticket_update();
CREATE FUNCTION public.insert_message() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO realtime.messages (payload, event, topic, private, extension)
    VALUES (jsonb_build_object(
                'type', TG_OP, 'ticket_id', NEW.id::text, 'tracking_number', NEW.tracking_number,
                'status', NEW.status, 'category', NEW.category, 'municipality_id', NEW.tenant_id,
                'ward_id', NEW.ward_id, 'is_sensitive', NEW.is_sensitive,
                'updated_at', extract(epoch FROM NEW.updated_at)),
            TG_OP, 'ticket_updates:' || NEW.tenant_id, true, 'broadcast');
    RETURN NULL;
END
$$;
CREATE TRIGGER message AFTER INSERT OR UPDATE ON public.tickets_bare
    FOR EACH ROW EXECUTE FUNCTION public.insert_message();
SELECT civic.setup('public.tickets_civic');
