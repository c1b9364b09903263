#!/usr/bin/env bash
# Builds the extension and installs it into the server of PG_CONFIG.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

staged=${CARGO_TARGET_DIR:-target}/install-$(major_of "$PG_CONFIG")
scripts/stage.sh "$staged"
"$staged/install.sh" "$PG_CONFIG"
