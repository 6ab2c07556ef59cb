# shellcheck shell=bash
# Sourced by examples/quickstart.sh and tests/run.sh: `set_up GROUP` makes $venv ready for use.
#
# The package and one of pyproject.toml's dependency groups go into a virtual environment of their
# own (${MAILQUEUE_VENV:-.venv}, which git ignores); a mongod comes with the group, a beanstalkd from
# Debian's or Ubuntu's package where none is installed, unless needs_beanstalkd=no. What needs root
# is done as root or by `sudo -n`; otherwise it says what is missing. Nothing is fetched again until
# pyproject.toml changes.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${MAILQUEUE_VENV:-$repo/.venv}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

say() { printf '%s\n' "$*" >&2; }

set_up() {
    local group=$1 mark
    mark="$repo $(cksum < "$repo/pyproject.toml")"
    if [ "$(cat "$venv/mailqueue-$group" 2> /dev/null)" != "$mark" ]; then
        say "Setting up $venv (only this first time) ..."
        make_venv
        install_package "$group"
        mongod_runs
        printf '%s\n' "$mark" > "$venv/mailqueue-$group"
        # The group for development includes the other one.
        [ "$group" != dev ] || cp "$venv/mailqueue-dev" "$venv/mailqueue-quickstart"
    fi
    [ "${needs_beanstalkd:-yes}" = no ] || has_beanstalkd || get_beanstalkd || say "beanstalkd is missing and could not be downloaded."
}

make_venv() {
    local python
    "$venv/bin/python" -m pip --version > /dev/null 2>&1 && return
    python=$(find_python) \
        || { apt_install python3 python3-venv && python=$(find_python); } \
        || { apt_install python3.11 python3.11-venv && python=$(find_python); } \
        || { say "Missing: Python 3.11 or newer with its venv module (apt-get install python3-venv)."; exit 3; }
    "$python" -m venv "$venv"
}

find_python() {
    local python
    for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        # Debian ships venv without ensurepip until python3-venv is installed.
        "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            > /dev/null 2>&1 && printf '%s\n' "$python" && return
    done
    return 1
}

install_package() {
    # Older pips know no dependency groups.
    quietly "$venv/bin/python" -m pip install 'pip>=25.1'
    (cd "$repo" && quietly "$venv/bin/python" -m pip install --group "$1" --editable .)
}

# The wheel's mongod wants libcurl, which the smallest Debian and Ubuntu images lack.
mongod_runs() {
    local mongod
    mongod=$(server mongod) && [ -n "$mongod" ] || return 0
    "$mongod" --version > /dev/null 2>&1 || apt_install libcurl4 \
        || say "$mongod does not run here: $("$mongod" --version 2>&1 | head -n 1)"
}

# The path of a server's binary, as the product finds it.
server() {
    "$venv/bin/python" -c 'import sys; from mailqueue.devserver.process import find
print(find(sys.argv[1]))' "$1" 2> /dev/null
}

has_beanstalkd() {
    [ -n "${MAILQUEUE_BEANSTALKD:-}" ] || [ -x "$venv/bin/beanstalkd" ] \
        || PATH=$PATH:/usr/bin:/usr/sbin command -v beanstalkd > /dev/null
}

# Only the program, beside the environment's python, where mailqueue.devserver looks for it:
# installing the package would need root and leave a service running.
get_beanstalkd() {
    local folder
    command -v apt-get > /dev/null || return
    folder=$(mktemp -d)
    (
        chmod 755 "$folder" # apt downloads as a user of its own
        cd "$folder"
        quietly apt-get download beanstalkd || { apt_update && quietly apt-get download beanstalkd; } \
            && quietly dpkg --extract beanstalkd_*.deb . \
            && quietly usr/bin/beanstalkd -v \
            && cp usr/bin/beanstalkd "$venv/bin/"
    ) || true
    rm -rf "$folder"
    [ -x "$venv/bin/beanstalkd" ]
}

apt_install() {
    command -v apt-get > /dev/null && apt_update \
        && as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get --yes --no-install-recommends install "$@"
}

apt_update() {
    as_root apt-get update
}

as_root() {
    if [ "$(id -u)" = 0 ]; then quietly "$@"; else quietly sudo -n "$@"; fi
}

# Runs a command without input; its output is shown only if it fails.
quietly() {
    local output
    output=$("$@" 2>&1 < /dev/null) || { say "$output"; return 1; }
}
