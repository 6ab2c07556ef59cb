#!/usr/bin/env bash
# Sets up everything that the tests need, then runs them all: bash tests/run.sh [pytest's arguments]
#
# Four tests at a time, since most of them wait (-n 0: one after the other in this process). Where a
# server is missing, its tests are skipped; with CI set they fail. See examples/setup.sh.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # hundreds of child processes would compile the package, each anew
# shellcheck source=../examples/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"

# The SMTP server that mail is handed to, into the environment: installed, it would be the system's.
# Its libraries come with it where they are missing.
get_postfix() {
    local folder packages
    [ "$(id -u)" = 0 ] || return 0 # its master would refuse to run
    if [ -x /usr/lib/postfix/sbin/master ] || [ -d "$venv/postfix" ]; then return 0; fi
    command -v apt-get > /dev/null || return
    folder=$(mktemp -d)
    chmod 755 "$folder" # apt downloads as a user of its own
    (
        cd "$folder"
        packages=$(postfix_packages) || { apt_update && packages=$(postfix_packages); }
        # shellcheck disable=SC2086  # one word per package
        quietly apt-get download $packages \
            && find . -name '*.deb' -print0 | xargs -0 -I{} dpkg --extract {} root \
            && mv root "$venv/postfix"
    ) || true
    rm -rf "$folder"
    [ -d "$venv/postfix" ]
}

# Postfix and the libraries that it lacks here; none that would only be newer.
postfix_packages() {
    apt-get --simulate --no-install-recommends install postfix 2> /dev/null \
        | awk '$1 == "Inst" && $3 ~ /^\(/ && $2 ~ /^(postfix$|lib)/ { print $2; found = 1 }
            END { exit !found }'
}

# What reads alert rules and metrics, into the environment: installed, Prometheus would be a service.
get_prometheus() {
    local folder
    if command -v promtool > /dev/null || [ -x "$venv/bin/promtool" ]; then return 0; fi
    command -v apt-get > /dev/null || return
    folder=$(mktemp -d)
    chmod 755 "$folder"
    (
        cd "$folder"
        { quietly apt-get download prometheus || { apt_update && quietly apt-get download prometheus; }; } \
            && dpkg --extract prometheus_*.deb root \
            && cp root/usr/bin/prometheus root/usr/bin/promtool "$venv/bin/"
    ) || true
    rm -rf "$folder"
    [ -x "$venv/bin/promtool" ]
}

# Resend's own client for Node, into the environment.
get_node_packages() {
    [ -d "$venv/node/node_modules/resend" ] && return
    command -v npm > /dev/null || return
    mkdir -p "$venv/node"
    quietly npm install --prefix "$venv/node" --no-audit --no-fund --ignore-scripts resend@6
}

set_up dev
get_postfix || say "No Postfix here, and it could not be fetched."
get_prometheus || say "No Prometheus here, and it could not be fetched."
get_node_packages || say "No npm here, so no client in Node is tried."
# Networks of our own, in which MongoDB's nodes lose sight of each other.
[ "$(id -u)" != 0 ] || command -v ip > /dev/null || apt_install iproute2 || say "No iproute2 here."
# Clocks that differ from one node to the next.
compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" > /dev/null || apt_install libfaketime || say "No libfaketime here."
# Other people's clients for the ways in, the queues beside beanstalkd, a browser, and what stands
# before the dashboard.
for program in swaks:swaks php:php-cli node:nodejs redis-server:redis-server \
    chromium:chromium chromedriver:chromium-driver nginx:nginx; do
    command -v "${program%:*}" > /dev/null || apt_install "${program#*:}" || say "No ${program%:*} here."
done
cd "$repo"
exec "$venv/bin/python" -m pytest -n 4 --dist worksteal "$@"
