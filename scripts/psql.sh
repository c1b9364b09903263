#!/usr/bin/env bash
# A shell in the demo's database, as its superuser.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

scripts/cluster.sh start demo
socket=$(scripts/cluster.sh socket demo)
psql=("$("$PG_CONFIG" --bindir)/psql" --host "$socket" --username postgres --no-psqlrc)
if [ "$("${psql[@]}" -d postgres -Atc "SELECT count(*) FROM pg_database WHERE datname = 'demo'")" = 0 ]; then
    say "there is no demo database yet: playing the story"
    scripts/demo.sh
fi
[ ! -t 0 ] || cat <<'HELP'
To act as a user, for one transaction as the gateway does:
  BEGIN;
  SET LOCAL ROLE authenticated;
  SET LOCAL request.jwt.claims = '{"app_metadata": {"tenant_id": "00000000-0000-0000-0000-000000000001", "role": "manager"}}';
To be the superuser again: COMMIT;
HELP
exec "${psql[@]}" -d demo "$@"
