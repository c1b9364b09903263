#!/usr/bin/env bash
# Formatting, and clippy on every server that the tests run on.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

say "formatting"
cargo fmt --all --check

majors=("$EMBEDDED_MAJOR" "$DEBIAN_MAJOR")
[ -z "$PG_CONFIG_GIVEN" ] || majors=("$(major_of "$PG_CONFIG")")
for major in "${majors[@]}"; do
    say "clippy for PostgreSQL $major"
    cargo clippy --quiet --all-targets --no-default-features --features "pg$major pg_test" -- -D warnings
done
say "clippy for the other crates"
cargo clippy --quiet --package pg_civic_demo --package pg_civic_bench --package civic_queue \
    --package civic_http --package civic_fake_services --all-targets -- -D warnings
