-- The tickets table three times: without a trigger, with the migrations', with ours. Logged, since
-- what is measured is the commit.
ALTER TABLE public.tickets ADD COLUMN ward_id varchar(100);
CREATE TABLE public.tickets_silent (LIKE public.tickets INCLUDING DEFAULTS);
CREATE TABLE public.tickets_plain (LIKE public.tickets INCLUDING DEFAULTS);
CREATE TABLE public.tickets_civic (LIKE public.tickets INCLUDING DEFAULTS);
CREATE TRIGGER ticket_update_notify AFTER INSERT OR UPDATE ON public.tickets_plain
    FOR EACH ROW EXECUTE FUNCTION public.notify_ticket_update();
SELECT civic.setup('public.tickets_civic');
