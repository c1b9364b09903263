-- updated_at is set, so that both triggers tell the same.
INSERT INTO :table (id, tenant_id, tracking_number, category, description, address, severity, status,
                    language, user_id, ward_id, updated_at)
SELECT lpad(to_hex(ticket), 32, '0')::uuid,
       '00000000-0000-0000-0000-000000000001',
       'TKT-20260211-' || lpad(to_hex(ticket), 6, '0'), 'water',
       'The pipe at the corner has burst and the road is flooded', '12 Main Road', 'high', 'open',
       'en', '8f14e45f-0000-4000-8000-000000000000', 'Ward 5', now()
FROM generate_series(1, :tickets) ticket;
