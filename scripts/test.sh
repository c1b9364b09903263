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
mkdir -p "$CACHE/test"
[ "$(id -u)" -ne 0 ] || chown "$SERVER_USER" "$CACHE/test"

for index in "${!majors[@]}"; do
    major=${majors[$index]}
    say "testing on PostgreSQL $major ($((index + 1)) of ${#majors[@]})"
    cargo pgrx test "${options[@]}" --pgdata "$CACHE/test" --features "pg$major" "pg$major" "$@"
done
