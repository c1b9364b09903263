SELECT name FROM storage.objects
WHERE bucket_id = 'evidence'
  AND name COLLATE "C" >= ':tenant/' AND name COLLATE "C" < ':tenant0'
ORDER BY name COLLATE "C" LIMIT 100;
