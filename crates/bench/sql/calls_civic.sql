SELECT count(civic.tenant_id()) FROM (SELECT generate_series(1, :calls)) AS calls;
