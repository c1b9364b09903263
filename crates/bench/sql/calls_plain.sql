-- As the migrations' policies ask for it, row by row.
SELECT count(auth.jwt() -> 'app_metadata' ->> 'tenant_id') FROM (SELECT generate_series(1, :calls)) AS calls;
