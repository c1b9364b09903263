-- The shape of the two queries beside, without a call.
SELECT count('00000000-0000-0000-0000-000000000001'::text) FROM (SELECT generate_series(1, :calls)) AS calls;
