#!/bin/sh
# For programs that call sendmail, such as cron and PHP:
#
#   install --mode=755 sendmail.sh /usr/sbin/sendmail
#
# They hand on little of their environment, so it says here what a shell would know. Each user who
# calls it must be able to read the configuration: leave the vendors' secrets to the consumers.
MAILQUEUE_ENV=production exec /opt/mailqueue/bin/mailqueue sendmail --config /etc/mailqueue/config.json "$@"
