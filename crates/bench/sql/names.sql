SELECT name FROM storage.objects
WHERE bucket_id = 'evidence'
ORDER BY name COLLATE "C" LIMIT 100;
