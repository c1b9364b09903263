-- One ticket of the application, by pgbench.
INSERT INTO :table (tenant_id, tracking_number, category, description, address, severity, status,
                    language, ward_id, updated_at)
VALUES ('00000000-0000-0000-0000-000000000001', 'TKT-20260211-A1B2C3', 'water',
        'The pipe at the corner has burst and the road is flooded', '12 Main Road', 'high', 'open',
        'en', 'Ward 5', now());
