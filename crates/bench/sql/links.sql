SELECT count(civic.get_signed_url('evidence', ':tenant/f' || number || '/photo.jpg'))
FROM generate_series(1, :links) number
