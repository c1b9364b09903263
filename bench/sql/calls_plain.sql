-- As the migrations' policies ask for it, row by row.
SELECT count(auth.jwt() -> 'app_metadata' ->> 'tenant_id') FROM generate_series(1, :calls);
