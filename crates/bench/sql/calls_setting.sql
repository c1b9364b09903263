-- The least that any function of the claims has to do.
SELECT count(current_setting('request.jwt.claims', true)) FROM (SELECT generate_series(1, :calls)) AS calls;
