-- :tickets tickets of each of the tenants :first to :last, mixed in time: one in 20 sensitive, three in a hundred
-- open, ten of each user, a photo of each.
INSERT INTO public.tickets (id, tenant_id, tracking_number, category, description, severity, status, language,
                            user_id, created_by, assigned_to, is_sensitive, created_at)
SELECT md5(format('ticket %s %s', t, n))::uuid, '00000000-0000-0000-0000-' || lpad(t::text, 12, '0'),
       format('%s-%s', t, n), 'water', repeat('The pipe at the corner has burst. ', 5), 'high',
       CASE WHEN n % 33 = 0 THEN 'open' ELSE 'closed' END, 'en',
       md5(format('user %s %s', t, n / 10))::uuid, md5(format('user %s %s', t, n / 10))::uuid::text,
       CASE WHEN n % 4 = 0 THEN md5(format('worker %s %s', t, n % 50))::uuid END, n % 20 = 0,
       '2026-01-01'::timestamptz + n * '1 minute'::interval + t * '1 second'::interval
FROM generate_series(:first, :last) t, generate_series(1, :tickets) n;
INSERT INTO public.media_attachments (id, ticket_id, file_id, s3_bucket, s3_key, tenant_id, created_by)
SELECT md5('file ' || id)::uuid, id, id::text, 'evidence', tenant_id || '/' || id || '/photo.jpg', tenant_id,
       created_by
FROM public.tickets
WHERE tenant_id BETWEEN '00000000-0000-0000-0000-' || lpad(:first::text, 12, '0')
                    AND '00000000-0000-0000-0000-' || lpad(:last::text, 12, '0');
