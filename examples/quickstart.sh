#!/usr/bin/env bash
# mailqueue's main job, to watch: bash examples/quickstart.sh [--http] [--dashboard] [--queue none]
#
# With --http the e-mails come in by HTTP, from curl. With --dashboard all keeps running until
# Ctrl-C, and a browser can look at it. With --queue none there is no beanstalkd: consumers find in
# MongoDB what is due.
#
# The first run sets everything up (see setup.sh), the others need no network. Nothing leaves this
# machine, and nothing stays but the virtual environment.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
case " $* " in
    *" --queue none "* | *" --queue=none "*) needs_beanstalkd=no ;;
esac
set_up quickstart
exec "$venv/bin/python" -u "$repo/examples/quickstart.py" "$@"
