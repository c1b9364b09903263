SELECT count(*) FROM storage.objects;
