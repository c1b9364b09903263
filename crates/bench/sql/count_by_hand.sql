-- What the policies let a manager see, written out.
SELECT count(*) FROM storage.objects
WHERE bucket_id = ANY (ARRAY['evidence', 'documents'])
  AND name COLLATE "C" >= ':tenant/' AND name COLLATE "C" < ':tenant0';
