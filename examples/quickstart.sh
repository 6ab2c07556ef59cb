#!/usr/bin/env bash
# mailqueue's main job, to watch: bash examples/quickstart.sh [--http]
#
# With --http the e-mails come in by HTTP, from curl.
#
# The first run sets everything up (see setup.sh), the others need no network. Nothing leaves this
# machine, and nothing stays but the virtual environment.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up quickstart
exec "$venv/bin/python" -u "$repo/examples/quickstart.py" "$@"
