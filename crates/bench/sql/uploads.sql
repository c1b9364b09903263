INSERT INTO storage.objects (bucket_id, name, owner_id, metadata)
SELECT 'evidence', ':tenant/' || md5(object::text)::uuid || '/photo.jpg',
       '8f14e45f-0000-4000-8000-000000000000', '{"size": 184320, "mimetype": "image/jpeg"}'
FROM generate_series(1, :objects) object;
