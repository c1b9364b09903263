#!/usr/bin/env bash
# pg_upgrade of a guarded database between the two servers, each with the extension installed and preloaded for the
# database postgres, which pg_upgrade drops and creates: a worker in it would make that fail.
#   test-pg-upgrade.sh OLD_PG_CONFIG NEW_PG_CONFIG
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

old_config=${1:?usage: test-pg-upgrade.sh OLD_PG_CONFIG NEW_PG_CONFIG}
new_config=${2:?usage: test-pg-upgrade.sh OLD_PG_CONFIG NEW_PG_CONFIG}
old=$("$old_config" --bindir) new=$("$new_config" --bindir)
readonly TENANT=00000000-0000-0000-0000-000000000001

work=$(mktemp -d)
[ "$(id -u)" -ne 0 ] || chown "$SERVER_USER" "$work"
finish() {
    local data
    for data in old new; do
        [ ! -f "$work/$data/postmaster.pid" ] || as_server_user "$new/pg_ctl" -D "$work/$data" -m immediate -w -s stop || true
    done
    rm -rf "$work"
}
trap finish EXIT

make_cluster() { # make_cluster BIN NAME
    as_server_user "$1/initdb" --pgdata "$work/$2" --username postgres --auth trust --encoding UTF8 --locale C.UTF-8 --data-checksums --no-sync >/dev/null
    as_server_user tee -a "$work/$2/postgresql.auto.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$work'
shared_preload_libraries = 'pg_civic'
civic.database = 'postgres'
max_prepared_transactions = 10
fsync = off
CONF
}
start() { as_server_user "$1/pg_ctl" -D "$work/$2" -l "$work/$2.log" -w -s start || { cat "$work/$2.log" >&2; die "the $2 cluster did not start"; }; }
stop() { as_server_user "$1/pg_ctl" -D "$work/$2" -m fast -w -s stop; }
query() { PGOPTIONS="-c client_min_messages=warning" "$new/psql" --host "$work" --username postgres --no-psqlrc --quiet -v ON_ERROR_STOP=1 -XAt "$@" postgres; }

# What each caller sees, and what guards it. pg_upgrade must change none of it.
sight() {
    local role
    for role in citizen manager saps_liaison; do
        query <<SQL
BEGIN;
SET LOCAL ROLE authenticated;
SET LOCAL request.jwt.claims = '{"sub": "8f14e45f-0000-4000-8000-000000000000", "app_metadata": {"tenant_id": "$TENANT", "role": "$role"}}';
SELECT '$role', (SELECT count(*) FROM storage.objects), (SELECT count(*) FROM public.tickets);
COMMIT;
SQL
    done
    query <<SQL
SET ROLE anon;
SELECT 'anon', (SELECT count(*) FROM storage.objects);
RESET ROLE;
SELECT 'policy', schemaname, tablename, policyname, permissive, roles, cmd, qual, with_check FROM pg_policies ORDER BY 3, 4;
SELECT 'trigger', tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 2, 3;
SELECT 'job', id, state, media_url FROM civic.media_jobs ORDER BY 2;
SELECT 'kept', count(*) FROM civic.changed_privileges;
SELECT 'kept', count(*) FROM civic.protected_tables;
SELECT 'finding', component FROM civic.check() WHERE NOT ok ORDER BY 2;
SQL
}
wait_for_relay() {
    local _
    for _ in $(seq 600); do
        [ "$(query -c 'SELECT running FROM civic.relay_stats()')" != t ] || return 0
        sleep 0.2
    done
    die "the relay does not run"
}

say "pg_upgrade from $("$old_config" --version) to $("$new_config" --version)"
make_cluster "$old" old
start "$old" old
for fixture in supabase application rows; do query -f "pgrx-tests/fixtures/$fixture.sql" >/dev/null; done
query >/dev/null <<SQL
CREATE EXTENSION pg_civic;
SELECT * FROM civic.setup('public.tickets');
SELECT * FROM civic.protect('public.tickets');
INSERT INTO storage.objects (bucket_id, name)
    SELECT bucket, tenant || '/folder/file' FROM unnest('{evidence,documents,gbv-evidence}'::text[]) bucket,
        unnest('{$TENANT,other}'::text[]) tenant;
INSERT INTO civic.media_jobs (kind, tenant_id, ticket_id, is_sensitive, bucket, path, file_id, media_content_type, media_url, next_attempt_at)
    VALUES ('fetch', '$TENANT', 't1', false, 'evidence', '$TENANT/t1/x.jpg', gen_random_uuid(), 'image/jpeg', 'https://api.twilio.com/x', now() + interval '1 day');
SQL
wait_for_relay
before=$(sight)
stop "$old" old

make_cluster "$new" new
(
    cd "$work"
    as_server_user sh -c 'cd "$0" && exec "$@"' "$work" "$new/pg_upgrade" --old-bindir "$old" --new-bindir "$new" \
        --old-datadir "$work/old" --new-datadir "$work/new" --username postgres --socketdir "$work" >"$work/pg_upgrade.out"
) || { cat "$work/pg_upgrade.out" >&2; find "$work/new/pg_upgrade_output.d" -name '*.log' -exec tail -n 20 {} + >&2 || true; die "pg_upgrade failed"; }
# Other than the servers of pg_upgrade, this one starts the workers.
start "$new" new
wait_for_relay

after=$(sight)
[ "$before" = "$after" ] || { diff <(echo "$before") <(echo "$after") >&2; die "pg_upgrade has changed what callers see"; }
grep -q '^citizen|2|' <<<"$after" || { echo "$after" >&2; die "a citizen does not see their municipality's files"; }
grep -q '^anon|0$' <<<"$after" || die "anon sees files"
heard=$(query -c "LISTEN \"ticket_updates:$TENANT\"" \
    -c "INSERT INTO public.tickets (tenant_id) VALUES ('$TENANT')" -c 'SELECT pg_sleep(2)' -c 'SELECT delivered FROM civic.relay_stats()')
grep -q 'Asynchronous notification' <<<"$heard" && grep -qx 1 <<<"$heard" || die "the relay published no ticket: $heard"
say "the upgraded database guards and publishes as before"
