#!/usr/bin/env bash
# Plays the story in a private cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

scripts/install.sh
# A new cluster: a running server keeps the library that it has preloaded.
scripts/cluster.sh destroy demo
CLUSTER_PRELOAD=pg_civic scripts/cluster.sh start demo
cargo build --quiet --release --package pg_civic_demo
"${CARGO_TARGET_DIR:-target}/release/pg_civic_demo" "$(scripts/cluster.sh socket demo)"
