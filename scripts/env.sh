# Where the development tools live, and who runs the private servers. Sourced by the other scripts.

PGRX_VERSION=0.18.1
EMBEDDED_VERSION=18.6.0
EMBEDDED_MAJOR=${EMBEDDED_VERSION%%.*}
DEBIAN_MAJOR=15
# The majors between, which `make test-all` tests too.
OTHER_EMBEDDED_VERSIONS=(17.11.0 16.15.0)
# The client that reads the old endpoint's events in a test; of the versions that run on Node 18.
EVENTSOURCE_VERSION=3.0.7
# The client of the module for browsers, and a WebSocket server for the test in Chromium.
SUPABASE_JS_VERSION=2.109.0
WS_VERSION=8.23.0
# Checks the Dockerfiles.
HADOLINT_VERSION=2.15.1

# PostgreSQL refuses to run as root, so root's tools live where the server's own user can read them.
if [ "$(id -u)" -eq 0 ]; then
    CACHE=${PG_CIVIC_CACHE:-/var/cache/pg_civic}
    # Its name is that of the test cluster's superuser too, which must not begin with "pg_".
    SERVER_USER=civic_server
else
    CACHE=${PG_CIVIC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pg_civic}
    SERVER_USER=$(id -un)
fi

embedded() { printf '%s\n' "$CACHE/postgresql/embedded-$1/bin/pg_config"; }
EMBEDDED_PG_CONFIG=$(embedded "$EMBEDDED_VERSION")
DEBIAN_PG_CONFIG=$CACHE/postgresql/debian-$DEBIAN_MAJOR/usr/lib/postgresql/$DEBIAN_MAJOR/bin/pg_config

PG_CONFIG_GIVEN=${PG_CONFIG:-}
PG_CONFIG=${PG_CONFIG:-$EMBEDDED_PG_CONFIG}
if [ -n "$PG_CONFIG_GIVEN" ]; then
    TESTED_PG_CONFIGS=("$PG_CONFIG")
elif [ "${PG_CIVIC_TESTED:-}" = others ]; then
    TESTED_PG_CONFIGS=()
    for version in "${OTHER_EMBEDDED_VERSIONS[@]}"; do TESTED_PG_CONFIGS+=("$(embedded "$version")"); done
else
    TESTED_PG_CONFIGS=("$EMBEDDED_PG_CONFIG" "$DEBIAN_PG_CONFIG")
fi

export PG_CIVIC_EVENTSOURCE=$CACHE/eventsource-$EVENTSOURCE_VERSION
export PG_CIVIC_POSTGRES_EXPORTER=$CACHE/prometheus-postgres-exporter
export PG_CIVIC_SUPABASE_JS=$CACHE/supabase-js-$SUPABASE_JS_VERSION
HADOLINT=$CACHE/hadolint-$HADOLINT_VERSION
export PGRX_HOME=$CACHE/pgrx
export PATH=$CACHE/bin:$HOME/.cargo/bin:$PATH

# rustup downloads the toolchain of rust-toolchain.toml, unless one is installed under that very name.
RUST_VERSION=1.95.0
if [ -z "${RUSTUP_TOOLCHAIN:-}" ] && command -v rustup >/dev/null \
    && ! rustup toolchain list 2>/dev/null | grep -q "^$RUST_VERSION" \
    && RUSTUP_TOOLCHAIN=stable rustc --version 2>/dev/null | grep -q "^rustc $RUST_VERSION "; then
    export RUSTUP_TOOLCHAIN=stable
fi

# Each suite of tests builds the library once more, as a child of a process to which cargo gave these variables. The
# build script of ring reads them, so where they differ it runs again, and all that needs ring is compiled
# again: a minute at each change between the two.
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
IFS=. read -r CARGO_PKG_VERSION_MAJOR CARGO_PKG_VERSION_MINOR CARGO_PKG_VERSION_PATCH <<<"$version"
export CARGO_PKG_VERSION_MAJOR CARGO_PKG_VERSION_MINOR CARGO_PKG_VERSION_PATCH
export CARGO_MANIFEST_DIR=$PWD CARGO_PKG_NAME=pg_civic CARGO_PKG_VERSION_PRE=

# A setting of the developer's shell must not lead a test to another server.
# Errors must not carry backtraces because the developer's shell asks for them.
unset RUST_BACKTRACE RUST_LIB_BACKTRACE
unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGOPTIONS PGSERVICE

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf '\033[1merror:\033[0m %s\n' "$*" >&2; exit 1; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
as_server_user() {
    if [ "$(id -un)" = "$SERVER_USER" ]; then "$@"; else (cd / && setpriv --reuid "$SERVER_USER" --regid "$SERVER_USER" --clear-groups "$@"); fi
}

# The pg_config of the server of a major: of the one given, or of a private one.
pg_config_of() {
    local version
    if [ -n "$PG_CONFIG_GIVEN" ] && [ "$(major_of "$PG_CONFIG_GIVEN")" = "$1" ]; then
        printf '%s\n' "$PG_CONFIG_GIVEN"
    elif [ "$1" = "$DEBIAN_MAJOR" ]; then
        printf '%s\n' "$DEBIAN_PG_CONFIG"
    else
        for version in "$EMBEDDED_VERSION" "${OTHER_EMBEDDED_VERSIONS[@]}"; do
            [ "${version%%.*}" != "$1" ] || embedded "$version"
        done
    fi
}
major_of() { "$1" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/'; }
# The root of the copy of a server that tests install into.
test_copy_of() { printf '%s\n' "$CACHE/test-servers/$(printf '%s %s' "$1" "$("$1" --version)" | cksum | cut -d ' ' -f 1)"; }
