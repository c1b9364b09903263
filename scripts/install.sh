#!/usr/bin/env bash
# Builds the extension and installs it into the server of PG_CONFIG.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

options=(--release --pg-config "$PG_CONFIG" --no-default-features --features "pg$(major_of "$PG_CONFIG")")
library=$("$PG_CONFIG" --pkglibdir)/pg_civic.so
[ -w "$(dirname "$library")" ] || options+=(--sudo)
say "building pg_civic for $("$PG_CONFIG" --version) and installing it into $("$PG_CONFIG" --pkglibdir)"
# A running server keeps the file that it has loaded; a new one takes its place.
if [ -e "$library" ]; then
    if [ -w "$(dirname "$library")" ]; then rm "$library"; else as_root rm "$library"; fi
fi
# pgrx prints each file that it copies; only the output of the compiler is kept.
cargo pgrx install "${options[@]}" 2>&1 \
    | grep --line-buffered -Ev '(Using|Building|Running|Installing|Copying|Discovered|Writing) ?.\[|^Using sudo|^$' >&2
