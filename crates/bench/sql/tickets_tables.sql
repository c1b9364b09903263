-- The tickets table with the one column that the migrations' trigger needs and it lacks, three
-- times: without a trigger, with the migrations', with ours. Not logged and without indexes, so
-- that the cost of the rows themselves does not drown that of the triggers.
ALTER TABLE public.tickets ADD COLUMN ward_id varchar(100);
CREATE UNLOGGED TABLE public.tickets_silent (LIKE public.tickets INCLUDING DEFAULTS);
CREATE UNLOGGED TABLE public.tickets_plain (LIKE public.tickets INCLUDING DEFAULTS);
CREATE UNLOGGED TABLE public.tickets_civic (LIKE public.tickets INCLUDING DEFAULTS);
CREATE TRIGGER ticket_update_notify AFTER INSERT OR UPDATE ON public.tickets_plain
    FOR EACH ROW EXECUTE FUNCTION public.notify_ticket_update();
SELECT civic.setup('public.tickets_civic');
