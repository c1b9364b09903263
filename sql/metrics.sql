-- What monitoring reads.
CREATE VIEW civic.metrics AS SELECT name, labels, value, help FROM civic.metrics();

COMMENT ON VIEW civic.metrics IS 'numbers for monitoring, by Prometheus'' conventions';
COMMENT ON COLUMN civic.metrics.labels IS 'an object of texts; no label names a municipality, a ticket or a file';
COMMENT ON COLUMN civic.metrics.value IS 'of a name that ends in _total a counter since the server''s start, else a gauge';
