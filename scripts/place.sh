#!/bin/sh
# Installs pg_civic from the directory of this script, which has lib/ and share/extension/.
#   install.sh PG_CONFIG         into the server of this pg_config
#   install.sh LIBDIR SHAREDIR   into these directories, where there is no pg_config
#
# Each file is written beside its place and renamed: a running server keeps the library that it has loaded, and at
# no moment is there none, or half of one. Copying over a loaded library ends every process of its server.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case $# in
1) lib=$("$1" --pkglibdir) share=$("$1" --sharedir) ;;
2) lib=$1 share=$2 ;;
*)
    echo "usage: install.sh PG_CONFIG | install.sh LIBDIR SHAREDIR" >&2
    exit 2
    ;;
esac

put() { # put FILE MODE DIRECTORY
    place=$3/$(basename "$1")
    as=
    [ -w "$3" ] || as=sudo
    $as install -m "$2" "$1" "$place.new"
    $as mv -f "$place.new" "$place"
}
for file in "$here"/share/extension/*; do put "$file" 644 "$share/extension"; done
# Last: with the new library there is its SQL.
put "$here/lib/pg_civic.so" 755 "$lib"
echo "pg_civic is installed in $lib" >&2
