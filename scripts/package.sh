#!/usr/bin/env bash
# Builds packages for the majors given, or for all four, into dist/:
#   postgresql-MAJOR-civic_VERSION-1_ARCH.deb       in the layout of Debian and of PGDG
#   pg_civic-VERSION-pgMAJOR-linux-MACHINE.tar.gz   lib/, share/extension/, and install.sh for any other server
# They are as portable as the machine that builds: Debian 12 for glibc 2.36 and later.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

# Debian 12 has it.
readonly HIGHEST_GLIBC=2.36
architecture=$(dpkg --print-architecture)
machine=$(uname -m)
dist=$PWD/dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# What the library needs of a system: nothing but libc, and of no newer one than promised. Sets $glibc.
check_needs() { # check_needs LIBRARY
    local needed
    needed=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | paste -sd ' ')
    glibc=$(readelf -V "$1" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -V | tail -1)
    say "$(basename "$(dirname "$(dirname "$1")")"): needs $needed, glibc $glibc, $(stat -c %s "$1") bytes"
    ! grep -Evq '^(libc\.so\.6|libm\.so\.6|ld-linux.*)$' <<<"${needed// /$'\n'}" || die "$1 needs more than libc"
    [ "$(printf '%s\n' "$glibc" "$HIGHEST_GLIBC" | sort -V | tail -1)" = "$HIGHEST_GLIBC" ] \
        || die "$1 needs glibc $glibc"
}

make_deb() { # make_deb MAJOR STAGED
    local name=postgresql-$1-civic root=$work/deb-$1
    local lib=$root/usr/lib/postgresql/$1/lib share=$root/usr/share/postgresql/$1/extension
    local documents=$root/usr/share/doc/$name
    install -d "$root/DEBIAN" "$lib" "$share" "$documents"
    install -m 644 "$2"/lib/*.so "$lib"
    install -m 644 "$2"/share/extension/* "$share"
    install -m 644 LICENSE "$documents/copyright"
    gzip -9n <CHANGELOG.md >"$documents/changelog.gz"
    chmod 644 "$documents/changelog.gz"
    (cd "$root" && find usr -type f -exec md5sum {} + | sort -k 2 >DEBIAN/md5sums)
    cat >"$root/DEBIAN/control" <<CONTROL
Package: $name
Version: $version-1
Architecture: $architecture
Maintainer: pg_civic developers <developers@pg-civic.invalid>
Installed-Size: $(du -sk --exclude DEBIAN "$root" | cut -f 1)
Depends: postgresql-$1, libc6 (>= $glibc)
Recommends: ca-certificates
Section: database
Priority: optional
Description: guarded files and ticket events for municipalities in PostgreSQL $1
 The extension pg_civic guards the files and tickets of municipalities that
 share a database, and publishes changes of tickets to those who may receive
 them.
CONTROL
    dpkg-deb --root-owner-group -Zxz --build "$root" "$dist/${name}_$version-1_$architecture.deb" >/dev/null
}

majors=("$@")
[ ${#majors[@]} -gt 0 ] || majors=(15 16 17 18)
rm -rf "$dist"
mkdir -p "$dist"
for major in "${majors[@]}"; do
    # $work/NAME is the tarball's directory, too.
    name=pg_civic-$version-pg$major-linux-$machine
    PG_CONFIG=$(pg_config_of "$major") scripts/stage.sh "$work/$name"
    strip --strip-unneeded "$work/$name"/lib/*.so
    check_needs "$work/$name/lib/pg_civic.so"
    tar -C "$work" --owner 0 --group 0 --sort name -czf "$dist/$name.tar.gz" "$name"
    make_deb "$major" "$work/$name"
done
(cd "$dist" && sha256sum -- *.deb *.tar.gz >SHA256SUMS)
ls -l "$dist" >&2
