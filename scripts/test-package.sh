#!/usr/bin/env bash
# Tries what package.sh has built, as a user would:
#   - the .deb for 15 in a fresh Debian without a compiler: apt installs it, and the story of the demo, with
#     relay and media jobs, is played on Debian's server there
#   - the tarball for 18 from a directory beside the server, as CloudNativePG mounts it
#   - the images' scripts in a copy of their layout, and the Dockerfiles by a linter
# It needs root or sudo for the Debian. What it starts ends with it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

deb=$PWD/dist/postgresql-$DEBIAN_MAJOR-civic_$version-1_$(dpkg --print-architecture).deb
tarball() { printf '%s\n' "$PWD/dist/pg_civic-$version-pg$1-linux-$(uname -m).tar.gz"; }
story=$PWD/${CARGO_TARGET_DIR:-target}/release/pg_civic_demo

# Shows what a command has printed if it fails.
quietly() {
    local output status=0
    output=$("$@" 2>&1) || status=$?
    [ $status -eq 0 ] || { printf '%s\n' "$output" >&2; die "failed: $*"; }
}
play() { quietly "$story" "$1"; say "the demo's story was played to its end"; }

# In namespaces of its own: mounts and processes vanish with it.
if [ "${1:-}" = inside ]; then
    system=$2
    mount -t proc proc "$system/proc"
    mount -t tmpfs tmpfs "$system/dev/shm"
    in_system() { chroot "$system" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
    in_system sh -c '! command -v cargo && ! command -v cc' || die "this Debian has a compiler"

    say "apt installs $(basename "$deb")"
    install -m 644 -t "$system/tmp" "$deb"
    quietly in_system apt-get update -qq
    quietly in_system apt-get install -y -qq --no-install-recommends "/tmp/$(basename "$deb")"
    quietly in_system dpkg --verify "postgresql-$DEBIAN_MAJOR-civic"

    say "the story on the server of this Debian"
    configuration=$system/etc/postgresql/$DEBIAN_MAJOR/main
    printf "shared_preload_libraries = 'pg_civic'\ncivic.database = 'demo'\nlisten_addresses = ''\n" >"$configuration/conf.d/pg_civic.conf"
    echo 'local all all trust' >"$configuration/pg_hba.conf"
    in_system pg_ctlcluster "$DEBIAN_MAJOR" main start
    play "$system/run/postgresql"

    say "apt removes it"
    in_system pg_ctlcluster "$DEBIAN_MAJOR" main stop
    quietly in_system apt-get purge -y -qq "postgresql-$DEBIAN_MAJOR-civic"
    [ -z "$(find "$system/usr" -name '*pg_civic*')" ] || die "files are left"
    exit
fi

say "building the story"
cargo build --quiet --release --package pg_civic_demo

work=$(mktemp -d)
tree=$work/store/postgresql-and-plugins
chmod 755 "$work"
finish() {
    PG_CONFIG=$EMBEDDED_PG_CONFIG scripts/cluster.sh destroy mounted
    [ ! -f "$work/data/postmaster.pid" ] || as_server_user "$tree/bin/pg_ctl" -D "$work/data" -m immediate -w -s stop
    as_root rm -rf --one-file-system "$work"
}
trap finish EXIT

base=$CACHE/debian-12.tar
if [ ! -f "$base" ]; then
    say "fetching a small Debian 12"
    quietly as_root debootstrap --variant=minbase bookworm "$work/base"
    as_root tar -C "$work/base" -cf "$base.new" .
    as_root mv "$base.new" "$base"
fi
mkdir "$work/debian"
as_root tar -C "$work/debian" -xf "$base"
# Packages of a server start it, unless this says that they may not.
printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$work/debian/usr/sbin/policy-rc.d"
as_root unshare --mount --pid --fork --kill-child "$PWD/scripts/test-package.sh" inside "$work/debian"

say "the tarball for $EMBEDDED_MAJOR beside the server, as CloudNativePG mounts it"
tar -C "$work" -xzf "$(tarball "$EMBEDDED_MAJOR")"
mounted=$work/$(basename "$(tarball "$EMBEDDED_MAJOR")" .tar.gz)
export PG_CONFIG=$EMBEDDED_PG_CONFIG
scripts/cluster.sh destroy mounted
scripts/cluster.sh start mounted
socket=$(scripts/cluster.sh socket mounted)
as_server_user tee -a "$socket/data/postgresql.auto.conf" >/dev/null <<CONF
extension_control_path = '$mounted/share:\$system'
dynamic_library_path = '$mounted/lib:\$libdir'
shared_preload_libraries = 'pg_civic'
civic.database = 'demo'
CONF
scripts/cluster.sh stop mounted
scripts/cluster.sh start mounted
play "$socket"

say "the scripts for Supabase's image in a copy of its layout"
# The server as Nix has it: one tree, which a link of the profile leads to.
mkdir -p "$work/store" "$work/profile/bin" "$work/opt" "$work/etc/conf.d"
cp -a "$(dirname "$(dirname "$(pg_config_of 17)")")" "$tree"
find "$tree" -name 'pg_civic*' -delete
ln -s . "$tree/share/postgresql"
ln -s "$tree"/bin/* "$work/profile/bin/"
cat >"$work/etc/postgresql.conf" <<CONF
#shared_preload_libraries = 'ignored'
shared_preload_libraries = 'pg_stat_statements, auto_explain'	# (change requires restart)
include_dir = '$work/etc/conf.d'
listen_addresses = ''
unix_socket_directories = '$work/data'
CONF
cp docker/*.sh dist/*.tar.gz "$work/opt"
PATH="$work/profile/bin:$PATH" sh "$work/opt/supabase-install.sh"
for _ in 1 2; do sh "$work/opt/supabase-preload.sh" "$work/etc/postgresql.conf" "$work/etc/conf.d"; done
[ "$(readlink -f "$tree/lib/pg_civic.so")" = "$tree/lib/pg_civic.so" ]

mkdir "$work/data"
[ "$(id -u)" -ne 0 ] || chown "$SERVER_USER" "$work/data"
as_server_user "$tree/bin/initdb" --pgdata "$work/data" --username postgres --auth trust --encoding UTF8 --locale C.UTF-8 >/dev/null
as_server_user "$tree/bin/pg_ctl" -D "$work/data" -o "-c config_file=$work/etc/postgresql.conf" -l "$work/data/log" -w -s start
query() { "$tree/bin/psql" --host "$work/data" --username postgres --no-psqlrc -XAtc "$1" postgres; }
expect() { # expect QUERY ANSWER
    local answer
    answer=$(query "$1")
    [ "$answer" = "$2" ] || die "$1 gave $answer, not $2"
}
expect 'SHOW shared_preload_libraries' 'pg_stat_statements, auto_explain, pg_civic'
query 'CREATE EXTENSION pg_civic' >/dev/null
expect "SELECT civic.bucket_for_purpose('evidence')" evidence
for _ in $(seq 600); do
    [ "$(query 'SELECT running FROM civic.relay_stats()')" != t ] || break
    sleep 0.2
done
expect 'SELECT running FROM civic.relay_stats()' t

if [ -x "$HADOLINT/bin/hadolint" ]; then
    say "the Dockerfiles"
    # A version is given by an argument, or is that of the Debian at hand.
    "$HADOLINT/bin/hadolint" --ignore DL3008 docker/Dockerfile*
fi
say "every package works"
