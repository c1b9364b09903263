#!/bin/sh
# Installs the tarball beside this script that fits the server and the processor of Supabase's image.
#
# There PostgreSQL comes from Nix: `postgres` is a wrapper that sets NIX_PGLIBDIR to the directory lib of its own
# tree, and the server looks for libraries there. Extensions are in the same tree.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$(dirname "$(dirname "$(readlink -f "$(command -v postgres)")")")
major=$(postgres --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')

lib=${NIX_PGLIBDIR:-$tree/lib}
for share in "$tree/share/postgresql" "$tree/share" ''; do
    [ ! -d "$share/extension" ] || break
done
[ -n "$share" ] || { echo "no directory of extensions under $tree" >&2; exit 1; }

set -- "$here"/pg_civic-*-pg"$major"-linux-"$(uname -m)".tar.gz
[ -f "$1" ] || { echo "no tarball for PostgreSQL $major on $(uname -m) in $here" >&2; exit 1; }
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
tar -xzf "$1" -C "$unpacked"
sh "$unpacked"/pg_civic-*/install.sh "$lib" "$share"
