#!/usr/bin/env bash
# Freezes the SQL objects of the version in Cargo.toml: writes sql/pg_civic--VERSION.sql, which is what
# CREATE EXTENSION of that version installs, and lists its checksum, and that of the update script that leads to
# it, in sql/released.sha256. A version that is tagged is not frozen again.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

# $version comes from env.sh.
if git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null; then
    die "version $version is tagged: set the next version in Cargo.toml"
fi
say "freezing the SQL of version $version"
frozen=sql/pg_civic--$version.sql
cargo pgrx schema --pg-config "$PG_CONFIG" --no-default-features --features "pg$(major_of "$PG_CONFIG")" \
    --out "$frozen"
# Places in the source mean nothing once it has moved on.
sed -i -E '/^-- (src|crates)\/.*:[0-9]+$/d; /^\/\* <\/?(begin|end) connected objects>? \*\/$/d' "$frozen"

cd sql
shopt -s nullglob
scripts=("pg_civic--$version.sql" pg_civic--*"--$version.sql")
others=$(grep -vF -- "--$version.sql" released.sha256 || true)
{ [ -z "$others" ] || printf '%s\n' "$others"; sha256sum "${scripts[@]}"; } >released.new
mv released.new released.sha256
cat released.sha256
