SELECT count(civic.tenant_id()) FROM generate_series(1, :calls);
