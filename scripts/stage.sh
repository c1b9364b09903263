#!/usr/bin/env bash
# Builds the extension for the server of PG_CONFIG, and lays out in the directory OUT what is installed:
# lib/, share/extension/, LICENSE, and install.sh, which installs them.
#   stage.sh OUT
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

out=${1:?usage: stage.sh OUT}
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
# The server need not be one of those given to `cargo pgrx init`.
export PGRX_PG_CONFIG_PATH=$PG_CONFIG
say "building pg_civic for $("$PG_CONFIG" --version)"
# pgrx prints each file that it copies; only the output of the compiler is kept.
cargo pgrx package --pg-config "$PG_CONFIG" --out-dir "$built" \
    --no-default-features --features "pg$(major_of "$PG_CONFIG")" 2>&1 \
    | grep --line-buffered -Ev '(Using|Building|Running|Installing|Copying|Discovered|Writing) ?.\[|^$' >&2

rm -rf "$out"
mkdir -p "$out/lib" "$out/share/extension"
find "$built" -name '*.so' -exec install -m 755 -t "$out/lib" {} +
find "$built" \( -name '*.control' -o -name '*.sql' \) -exec install -m 644 -t "$out/share/extension" {} +
install -m 644 LICENSE "$out/LICENSE"
install -m 755 scripts/place.sh "$out/install.sh"
