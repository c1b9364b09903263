#!/usr/bin/env bash
# Builds the extension and installs it into the server of PG_CONFIG.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

options=(--release --pg-config "$PG_CONFIG" --no-default-features --features "pg$(major_of "$PG_CONFIG")")
[ -w "$("$PG_CONFIG" --pkglibdir)" ] || options+=(--sudo)
say "building pg_civic for $("$PG_CONFIG" --version) and installing it into $("$PG_CONFIG" --pkglibdir)"
# pgrx prints each file that it copies; only the output of the compiler is kept.
cargo pgrx install "${options[@]}" 2>&1 \
    | grep --line-buffered -Ev '(Using|Building|Running|Installing|Copying|Discovered|Writing) ?.\[|^Using sudo|^$' >&2
