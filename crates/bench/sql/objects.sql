-- One tenant's objects after another's, :objects of each, for the tenants :first to :last.
INSERT INTO storage.objects (bucket_id, name, owner_id, metadata)
SELECT (ARRAY['evidence', 'evidence', 'evidence', 'evidence', 'evidence', 'evidence',
              'documents', 'documents', 'documents', 'gbv-evidence'])[1 + object % 10],
       '00000000-0000-0000-0000-' || lpad(tenant::text, 12, '0')
           || '/' || md5(tenant || ' ' || object)::uuid || '/photo.jpg',
       md5('owner ' || object)::uuid,
       '{"size": 184320, "mimetype": "image/jpeg"}'
FROM generate_series(:first, :last) tenant, generate_series(1, :objects) object;
