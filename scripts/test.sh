#!/usr/bin/env bash
# Runs every test on the server of PG_CONFIG, or on PostgreSQL 18 and on Debian's 15 at the same time, or with
# PG_CIVIC_TESTED=others on 17 and 16.
# What follows the script's name is a filter of test names. The longest tests run a part of what they
# can; CIVIC_PROOF=1 runs all of it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

majors=()
declare -A copies
for pg_config in "${TESTED_PG_CONFIGS[@]}"; do
    major=$(major_of "$pg_config")
    majors+=("$major")
    copies[$major]=$(test_copy_of "$pg_config")$("$pg_config" --bindir)/pg_config
done
# Random cases of each rule without a server, which make proof has many more of.
export PROPTEST_CASES=${PROPTEST_CASES:-64}
# Most tests wait for a server, not for a processor.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 3))}

options=()
[ "$(id -u)" -ne 0 ] || options+=(--runas "$SERVER_USER")

# Each test makes a database, which is a thousand files: in memory where there is room for them.
data=$CACHE/test
gigabytes_free=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
if [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] && [ "$gigabytes_free" -ge $((4 + 7 * ${#majors[@]})) ] \
    && [ "$(df --output=avail -BG /dev/shm | tail -1 | tr -dc 0-9)" -ge $((6 * ${#majors[@]})) ]; then
    # Named after the tools' directory, so that two checkouts with one each can be tested at once.
    data=/dev/shm/pg_civic-test-$(id -un)-$(printf %s "$CACHE" | cksum | cut -d ' ' -f 1)
fi
mkdir -p "$data"
[ "$(id -u)" -ne 0 ] || chown "$SERVER_USER" "$data"
logs=$(mktemp -d)
declare -A running=() begun
finish() {
    local pid
    for pid in "${running[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
    rm -rf "$logs"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Every part runs, also after one that failed; the last lines say how long each took, and how it ended.
results=()
failed=0
record() { # record STATUS SECONDS NAME
    local outcome=passed
    [ "$1" -eq 0 ] || { outcome=FAILED; failed=1; }
    results+=("$(printf '%5d:%02d  %-6s  %s' $(($2 / 60)) $(($2 % 60)) "$outcome" "$3")")
}
part() { # part NAME COMMAND...
    local name=$1 start=$SECONDS status=0
    shift
    say "$name"
    "$@" || status=$?
    record "$status" $((SECONDS - start)) "$name"
    return "$status"
}

# Without a server, so it fails first. loom tries every interleaving of the queue's few steps.
if [ $# -eq 0 ]; then
    part "build the tests of the crates" cargo test --no-run \
        --package civic_queue --package civic_http --package civic_fake_services --package pg_civic_bench || true
    part "test the crates" cargo test --quiet \
        --package civic_queue --package civic_http --package civic_fake_services --package pg_civic_bench || true
    part "test every interleaving of the queue" env RUSTFLAGS="--cfg loom" \
        cargo test --quiet --release --package civic_queue --target-dir target/loom || true
fi

# What `cargo pgrx test` builds: the tests, and the library that they install into the copy of a server.
build() { # build MAJOR
    local features=(--no-default-features --features "pg$1 pg_test")
    cargo test --no-run "${features[@]}" \
        && cargo pgrx install --test --pg-config "${copies[$1]}" "${features[@]}" >/dev/null
}
suite() { # suite MAJOR FILTER...
    local major=$1
    shift
    cargo pgrx test "${options[@]}" --no-default-features --pgdata "$data" --features "pg$major" "pg$major" "$@"
}

built=()
for major in "${majors[@]}"; do
    if part "build for PostgreSQL $major" build "$major"; then built+=("$major"); fi
done

# The suites run side by side. Each installs its library when it begins, and the last one that was built
# lies where cargo puts both: so the second begins when the first has installed.
set -m # a process group for each, which an interrupt ends
for major in "${built[@]}"; do
    say "test on PostgreSQL $major"
    begun[$major]=$SECONDS
    (
        status=0
        suite "$major" "$@" >"$logs/$major" 2>&1 || status=$?
        echo "$SECONDS" >"$logs/$major.end"
        exit "$status"
    ) &
    running[$major]=$!
    while kill -0 "${running[$major]}" 2>/dev/null && ! grep -q 'installing pg_civic' "$logs/$major"; do sleep 1; done
done
for major in "${built[@]}"; do
    status=0
    # The output of the first is shown as it comes, that of the second when the first has ended.
    tail -n +1 -f --pid="${running[$major]}" "$logs/$major"
    wait "${running[$major]}" || status=$?
    unset "running[$major]"
    record "$status" $(($(cat "$logs/$major.end") - ${begun[$major]})) "test on PostgreSQL $major"
done

# From each of the majors between to the newest, for which `make test` has installed the extension.
if [ "${PG_CIVIC_TESTED:-}" = others ] && [ $# -eq 0 ]; then
    newest=$(test_copy_of "$EMBEDDED_PG_CONFIG")$("$EMBEDDED_PG_CONFIG" --bindir)/pg_config
    for major in "${built[@]}"; do
        part "pg_upgrade from $major to $EMBEDDED_MAJOR" \
            scripts/test-pg-upgrade.sh "${copies[$major]}" "$newest" || true
    done
fi

say "what ran, and how long it took"
printf '%s\n' "${results[@]}" >&2
exit "$failed"
