#!/usr/bin/env bash
# Private clusters: own data directory and socket, no TCP port, and their own user where root calls.
#   cluster.sh start NAME     creates the cluster if there is none, starts it if it is down; with
#                             CLUSTER_PRELOAD=pg_civic its relay serves the database NAME
#   cluster.sh stop NAME
#   cluster.sh destroy NAME   stops it and removes it
#   cluster.sh socket NAME    prints the directory of its socket
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

name=${2:?usage: cluster.sh start|stop|destroy|socket NAME}
major=$(major_of "$PG_CONFIG")
bin=$("$PG_CONFIG" --bindir)
home=$CACHE/clusters/$name-$major
data=$home/data

is_running() { as_server_user "$bin/pg_ctl" -D "$data" status >/dev/null 2>&1; }

case $1 in
start)
    if [ ! -f "$data/PG_VERSION" ]; then
        say "making the cluster $home"
        mkdir -p "$home"
        [ "$(id -u)" -ne 0 ] || chown "$SERVER_USER" "$home"
        chmod 700 "$home"
        as_server_user "$bin/initdb" --pgdata "$data" --username postgres --auth trust \
            --encoding UTF8 --locale C.UTF-8 >/dev/null
        as_server_user tee "$data/postgresql.auto.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$home'
max_connections = 200
${CLUSTER_PRELOAD:+shared_preload_libraries = '$CLUSTER_PRELOAD'
civic.database = '$name'}
CONF
    fi
    # Only the server's user and root can enter the directory, so only they reach the socket.
    is_running || as_server_user "$bin/pg_ctl" -D "$data" -l "$home/log" -w -s start \
        || die "PostgreSQL did not start: see $home/log"
    ;;
stop) ! is_running || as_server_user "$bin/pg_ctl" -D "$data" -m fast -w -s stop ;;
destroy)
    ! is_running || as_server_user "$bin/pg_ctl" -D "$data" -m immediate -w -s stop
    rm -rf "$home"
    ;;
socket) printf '%s\n' "$home" ;;
*) die "unknown command $1" ;;
esac
