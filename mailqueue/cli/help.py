"""What ``--help`` says of each verb. Pure.

Decides: the words, an example, and what exit code 1 means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Help:
    """What a person reads about a verb. ``exit_1``: when its exit code is 1."""

    summary: str
    details: str
    example: str
    exit_1: str


_ASKS = "Takes ids, or filters. A filter that matches several e-mails asks first, or needs --yes."
HELP: Mapping[str, Help] = {
    "list": Help(
        "list e-mails, the oldest or the newest first",
        "Shows no address, subject or body. DUE: the time until it is due.",
        "mailqueue list --status uncertain --older-than 1h",
        "",
    ),
    "show": Help(
        "show one e-mail with all attempts to send it",
        "Shows addresses, subject, body and the vendors' own words only with --content.",
        "mailqueue show 65f1c0ffee65f1c0ffee65f1",
        "there is no such e-mail",
    ),
    "explain": Help(
        "say what happened to one e-mail, why, and what comes next",
        "In sentences: which vendor was asked and why that one, what it answered, when it is sent "
        "next and by whom, and which commands help. It changes nothing.",
        "mailqueue explain 65f1c0ffee65f1c0ffee65f1",
        "there is no such e-mail",
    ),
    "retry": Help(
        "send failed or uncertain e-mails again",
        f"{_ASKS} An uncertain e-mail may then arrive twice.",
        "mailqueue retry --status failed --vendor mailgun-eu --dry-run",
        "an e-mail was left unchanged",
    ),
    "mark-sent": Help(
        "record that failed or uncertain e-mails were sent",
        f"{_ASKS} For e-mails of which the vendor says that it has them.",
        "mailqueue mark-sent 65f1c0ffee65f1c0ffee65f1",
        "an e-mail was left unchanged",
    ),
    "cancel": Help(
        "cancel queued e-mails",
        f"{_ASKS} One of which a copy may have left becomes uncertain instead.",
        "mailqueue cancel --tag newsletter --dry-run",
        "an e-mail was left unchanged, or is uncertain now",
    ),
    "hold": Help(
        "let e-mails wait, or show which do",
        "All consumers know within two seconds. What is being sent ends as it would have; what "
        "waits uses up no attempt, and expires all the same. Without options: what is held. "
        "E-MAILS: those that wait. DUE: those of the tag or class that no consumer has seen yet.",
        "mailqueue hold --tag newsletter --reason 'wrong price'",
        "it is held already",
    ),
    "release": Help(
        "let e-mails go on that are held",
        "Takes the option that they are held by. They are due at once.",
        "mailqueue release --tag newsletter",
        "it is not held",
    ),
    "vendors": Help(
        "show the vendors' health, or change it for all consumers",
        "An unavailable vendor gets no e-mails but a probe now and then, and is available again "
        "when one is accepted. `enable NAME` does not wait for that. `drain NAME` gives its "
        "e-mails to the other vendors, until `undrain NAME`.",
        "mailqueue vendors drain mailgun-eu --reason 'contract ends'",
        "the vendor is so already, or is not configured",
    ),
    "stats": Help(
        "count e-mails by status, and jobs",
        "Shows also which e-mail has been due for the longest time, what is held, and what is used "
        "of the vendors' budgets. Of the e-mails of a status, "
        "SIMULATED counts those stored without MAILQUEUE_ENV=production, and UNKNOWN those with an "
        "attempt whose outcome is unknown.",
        "mailqueue stats --json",
        "",
    ),
    "doctor": Help(
        "check the installation, and say what to do",
        "Looks at the configuration, servers, clocks, vendors, consumers and e-mails. FAIL: "
        "e-mails are not sent, or wait for a person. WARN: something may surprise you. --send-test "
        "goes straight to the vendors, also while no consumer runs, and changes nothing here.",
        "MAILQUEUE_ENV=production mailqueue doctor --send-test ann@example.org",
        "a finding is FAIL, or a test e-mail was not accepted",
    ),
    "health": Help(
        "tell a container's probe whether its consumer lives",
        "Looks in MongoDB for a heartbeat of a consumer on this host: in a container, of its own. "
        "MAILQUEUE_ENV has to be that of the consumer. Exit code 3, MongoDB was not reached, says "
        "nothing of the consumer, which waits for it: no reason to restart it.",
        "MAILQUEUE_ENV=production mailqueue health --max-age 60",
        "there is none",
    ),
    "sweep": Help(
        "do one round of a consumer's sweeper now",
        "Consumers do so by themselves: rescue e-mails of consumers that died, end those "
        "that expired, announce those without a job, remove those past their retention.",
        "MAILQUEUE_ENV=production mailqueue sweep --dry-run",
        "another process holds the sweeper lease, or production was left out",
    ),
    "audit": Help(
        "check that every e-mail is in a legal state",
        "Reads all e-mails and changes nothing.",
        "mailqueue audit --grace 10m",
        "an e-mail is in an illegal state",
    ),
    "suppress": Help(
        "look after the suppression list: who gets no e-mail any more",
        "An entry is an address, or @DOMAIN for all addresses of that domain. add ADDRESS..., "
        "remove ADDRESS..., list [ADDRESS...], import FILE, export [FILE]: see the help of each. "
        "A FILE is CSV or one address a line; - is standard input or output.",
        "mailqueue suppress import bounces.csv --reason bounced",
        "an address is not on the list",
    ),
    "forget": Help(
        "remove a person from all that is stored",
        "E-mails that have ended lose their content and the person's addresses; those queued for "
        "the person are cancelled first. On the suppression list a hash stays. It reads the whole "
        "collection, and cannot be undone. Vendors and backups have to be asked for themselves.",
        "mailqueue forget ann@example.net --dry-run",
        "an e-mail is left, since it has not ended: call it again later",
    ),
    "responder": Help(
        "post callbacks: what becomes of e-mails, to the application",
        "Each is signed with callbacks.secrets, and repeated until it is answered, for three "
        "days. Runs until SIGTERM or SIGINT; then finishes what is under way.",
        "MAILQUEUE_ENV=production mailqueue responder",
        "a second signal",
    ),
    "metrics": Help(
        "show metrics to Prometheus",
        "GET /metrics reads MongoDB and the queue. Runs until SIGTERM or SIGINT. "
        "examples/monitoring has alert rules and a board.",
        "MAILQUEUE_ENV=production mailqueue metrics --port 9464",
        "a second signal",
    ),
    "callbacks": Help(
        "show callbacks that failed, or have them posted again",
        "list shows those in one state (failed, unless another is named). retry takes ids of "
        "e-mails, or --state for the callbacks of all.",
        "mailqueue callbacks retry --state failed --dry-run",
        "an e-mail has no callback to post again",
    ),
    "key": Help(
        "make an API key for the HTTP and SMTP services",
        "Prints the secret, for the caller, and the entry for http.keys of the configuration, "
        "which has only its SHA-256. send: new e-mails; read: look at them; operate: change them.",
        "mailqueue key new shop --scope send --from '*@example.com'",
        "",
    ),
    "http": Help(
        "take e-mails in over HTTP, in Resend's wire format",
        "Serves until SIGTERM or SIGINT; then finishes what is under way. Without http.keys only "
        "this host is served. /docs shows the calls.",
        "mailqueue http --port 8080",
        "a second signal",
    ),
    "intake": Help(
        "store the events that other programs put on the intake tube",
        'An event is a JSON object, {"email": {...}}, on the tube <beanstalkd.tube>.intake. Runs '
        "until SIGTERM or SIGINT. An event that is not valid is buried, and logged.",
        "MAILQUEUE_ENV=production mailqueue intake",
        "a second signal",
    ),
    "smtp": Help(
        "take e-mails over SMTP",
        "Answers 250 when an e-mail is stored durably. With keys in http.keys, a client logs in "
        "with one as its password. Stops on SIGTERM.",
        "MAILQUEUE_ENV=production mailqueue smtp --port 2525",
        "a second signal",
    ),
    "sendmail": Help(
        "take a message from standard input, as the command of that name does",
        "For cron, PHP and whatever else calls sendmail. Its exit codes are those of sysexits.h: "
        "see mailqueue sendmail --help.",
        "printf 'Subject: Hi\\n\\nHello\\n' | mailqueue sendmail bob@example.org",
        "",
    ),
}
