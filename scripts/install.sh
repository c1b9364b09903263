#!/usr/bin/env bash
# Builds the extension and installs it into the server of PG_CONFIG.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

built=${CARGO_TARGET_DIR:-target}/install-$(major_of "$PG_CONFIG")
say "building pg_civic for $("$PG_CONFIG" --version) and installing it into $("$PG_CONFIG" --pkglibdir)"
rm -rf "$built"
# pgrx prints each file that it copies; only the output of the compiler is kept.
cargo pgrx package --pg-config "$PG_CONFIG" --out-dir "$built" \
    --no-default-features --features "pg$(major_of "$PG_CONFIG")" 2>&1 \
    | grep --line-buffered -Ev '(Using|Building|Running|Installing|Copying|Discovered|Writing) ?.\[|^$' >&2

# Each file is written beside its place and renamed: a running server keeps the library that it has
# loaded, and at no moment is there none, or half of one.
put() { # put FILE MODE
    local place=/$1
    local run=()
    [ -w "$(dirname "$place")" ] || run=(as_root)
    "${run[@]}" install -m "$2" "$built/$1" "$place.new"
    "${run[@]}" mv -f "$place.new" "$place"
}
while read -r file; do
    case $file in *.so) put "$file" 755 ;; *) put "$file" 644 ;; esac
done < <(find "$built" -type f -printf '%P\n')
