SELECT count(DISTINCT entry) FROM public.list_folder('evidence', ':tenant/', 100) AS entry;
