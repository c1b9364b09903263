#!/usr/bin/env bash
# Runs every test on the server of PG_CONFIG, or on the embedded one and on Debian's. What follows
# the script's name is a filter of test names.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

majors=("$EMBEDDED_MAJOR" "$DEBIAN_MAJOR")
[ -z "$PG_CONFIG_GIVEN" ] || majors=("$(major_of "$PG_CONFIG")")

options=(--no-default-features)
[ "$(id -u)" -ne 0 ] || options+=(--runas "$SERVER_USER")

# Each test makes a database, which is a thousand files: in memory where there is room for them.
data=$CACHE/test
if [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] && [ "$(df --output=avail -BG /dev/shm | tail -1 | tr -dc 0-9)" -ge 6 ]; then
    # Named after the tools' directory, so that two checkouts with one each can be tested at once.
    data=/dev/shm/pg_civic-test-$(id -un)-$(printf %s "$CACHE" | cksum | cut -d ' ' -f 1)
fi
mkdir -p "$data"
[ "$(id -u)" -ne 0 ] || chown "$SERVER_USER" "$data"

# Without a server, so it fails first. loom tries every interleaving of the queue's few steps.
if [ $# -eq 0 ]; then
    say "testing the queue, HTTP and the measuring program"
    cargo test --quiet --package civic_queue --package civic_http --package civic_fake_services --package pg_civic_bench
    RUSTFLAGS="--cfg loom" cargo test --quiet --release --package civic_queue --target-dir target/loom
fi

for index in "${!majors[@]}"; do
    major=${majors[$index]}
    say "testing on PostgreSQL $major ($((index + 1)) of ${#majors[@]})"
    cargo pgrx test "${options[@]}" --pgdata "$data" --features "pg$major" "pg$major" "$@"
done
