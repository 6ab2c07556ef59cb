#!/usr/bin/env bash
# Sets up everything that the tests need, then runs them all: bash tests/run.sh [pytest's arguments]
#
# Where a server is missing, its tests are skipped; with CI set they fail. See examples/setup.sh.
set -euo pipefail
# shellcheck source=../examples/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"
set_up dev
cd "$repo"
exec "$venv/bin/python" -m pytest "$@"
