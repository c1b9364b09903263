#!/bin/sh
# Has the server of Supabase's image preload pg_civic, for the database postgres. The list of libraries is one
# setting, so this restates all that the image's own configuration has.
#
# /etc/postgresql-custom is a volume in Supabase's docker-compose.yml, and an existing volume hides what an image
# has there. With one run this once in the container, and restart it:
#   docker compose exec -u root db sh /opt/pg_civic/supabase-preload.sh
set -eu
configuration=${1:-/etc/postgresql/postgresql.conf}
custom=${2:-/etc/postgresql-custom/conf.d}

# The last setting of a name is the one in force.
libraries=$(sed -n "s/^ *shared_preload_libraries *=* *'\([^']*\)'.*/\1/p" "$configuration" | tail -n 1)
case ", $libraries," in
*[,\ ]pg_civic,*) ;;
*) libraries=${libraries:+$libraries, }pg_civic ;;
esac

grep -q "^ *include_dir *=* *'$custom'" "$configuration" \
    || { echo "$configuration does not include $custom: set shared_preload_libraries = '$libraries' yourself" >&2; exit 1; }
mkdir -p "$custom"
cat >"$custom/pg_civic.conf.new" <<CONF
shared_preload_libraries = '$libraries'
civic.database = 'postgres'
CONF
mv -f "$custom/pg_civic.conf.new" "$custom/pg_civic.conf"
