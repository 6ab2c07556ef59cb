#!/usr/bin/env bash
# Hands an e-mail to `mailqueue intake`, from plain bash: bash examples/event.sh < event.json
#
# Takes a JSON object on standard input (docs/intake.md) and puts it on the tube. Prints the number
# of the job. From then on the event is kept, as far as beanstalkd keeps what it has (-b -f0).
#
#   bash examples/event.sh [HOST] [PORT] [TUBE]    (default: 127.0.0.1 11300 mailqueue.intake)
set -euo pipefail
export LC_ALL=C # ${#event} counts bytes

host=${1:-127.0.0.1} port=${2:-11300} tube=${3:-mailqueue.intake}
event=$(cat)

exec 3<> "/dev/tcp/$host/$port"
# put PRIORITY DELAY TIME-TO-RUN BYTES
printf 'use %s\r\nput 1024 0 60 %d\r\n%s\r\n' "$tube" "${#event}" "$event" >&3
read -r _ <&3 # USING
read -r answer number <&3
if [ "$answer" != INSERTED ]; then
    echo "event.sh: beanstalkd says ${answer%$'\r'}" >&2
    exit 1
fi
echo "${number%$'\r'}"
