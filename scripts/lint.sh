#!/usr/bin/env bash
# Formatting, clippy on every server that the tests run on, and the rules of deny.toml.
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

# The other checks need no network; advisories are checked where their database can be fetched.
if cargo deny --version >/dev/null 2>&1; then
    say "dependencies: licences, duplicate versions, sources"
    cargo deny --offline --workspace check --hide-inclusion-graph licenses bans sources
    if cargo deny --workspace fetch db >/dev/null 2>&1; then
        say "dependencies: advisories"
        cargo deny --offline --workspace check --hide-inclusion-graph advisories
    else
        say "advisories are not checked: their database could not be fetched"
    fi
else
    say "dependencies are not checked: cargo-deny is not installed (cargo install cargo-deny --locked)"
fi
