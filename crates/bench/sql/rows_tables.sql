-- The other tables of the application that its policies name, and the indexes of all of them.
CREATE TABLE public.users (id uuid PRIMARY KEY, tenant_id varchar);
CREATE TABLE public.teams (id uuid PRIMARY KEY, tenant_id varchar);
CREATE TABLE public.ticket_assignments (
    id uuid PRIMARY KEY, tenant_id varchar, ticket_id uuid, assigned_to uuid, is_current boolean);
CREATE INDEX ON public.tickets (tenant_id, created_at);
CREATE INDEX ON public.tickets (user_id);
CREATE INDEX ON public.tickets (created_by);
CREATE INDEX ON public.tickets (assigned_to);
CREATE INDEX ON public.media_attachments (ticket_id);
CREATE INDEX ON public.media_attachments (tenant_id);
CREATE INDEX ON public.media_attachments (created_by);
CREATE INDEX ON public.ticket_assignments (ticket_id);
GRANT ALL ON public.tickets, public.media_attachments, public.users, public.teams,
    public.ticket_assignments TO authenticated, service_role;
