SELECT count(civic.enqueue_media(':url', 'image/jpeg', gen_random_uuid()::text, ':tenant'))
FROM generate_series(1, :jobs)
