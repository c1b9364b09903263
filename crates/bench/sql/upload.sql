-- One upload, as the Storage API writes it.
INSERT INTO storage.objects (bucket_id, name, owner_id, metadata)
VALUES ('evidence', $1, '8f14e45f-0000-4000-8000-000000000000',
        '{"size": 184320, "mimetype": "image/jpeg"}');
