#!/usr/bin/env bash
# Measures pg_civic against the plain SQL that it replaces, on a fresh private cluster with the
# server's own defaults. Prints a table and writes crates/bench/results/latest.json. What follows the
# script's name picks the cases whose name holds that word.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
export PG_CONFIG

scripts/install.sh
say "building the measuring program"
cargo build --quiet --profile bench --package pg_civic_bench

trap 'scripts/cluster.sh destroy bench' EXIT
scripts/cluster.sh destroy bench
CLUSTER_PRELOAD=pg_civic scripts/cluster.sh start bench
mkdir -p crates/bench/results
"${CARGO_TARGET_DIR:-target}/release/pg_civic_bench" "$(scripts/cluster.sh socket bench)" crates/bench/results/latest.json "$@"
