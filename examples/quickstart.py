"""Watch mailqueue's main job: an application, two consumers, three vendors, one of them down.

Run it by ``bash examples/quickstart.sh``; with ``--http`` the application is no Python: its e-mails
go to a ``mailqueue http`` process by curl. With ``--dashboard`` all keeps running until Ctrl-C, and
a browser can look at what happened. With ``--queue none`` there is no beanstalkd: consumers find in
MongoDB what is due. Everything is on loopback: the servers are its own, an SMTP server, and two
HTTP servers that speak the needed part of SendGrid's and Mailgun's API. All of it is gone at the
end. Exits 0 when every e-mail was accepted by exactly one vendor.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from mailqueue import EmailDict, EmailStatus, Producer
from mailqueue.devserver import devservers
from mailqueue.devserver.process import HOST, ServerNotFound, dies_with_parent

PATIENCE = 60.0
SIGNALS = signal.SIGINT, signal.SIGTERM


# The application ---------------------------------------------------------------------------------


def batch() -> Iterator[EmailDict | EmailMessage]:
    """An application's e-mails: some are mappings, some the standard library's EmailMessage."""
    shop = "Shop <shop@example.com>"
    yield {"from": shop, "to": ["ann@example.org"], "subject": "Your order", "text": "Thank you."}
    yield {
        "from": shop,
        "to": "Bob <bob@example.org>",
        "subject": "Our autumn list",
        "text": "Have a look.",
        "html": "<p>Have a <b>look</b>.</p>",
        "tags": ["newsletter"],
    }
    yield {
        "from": "Café Größenwahn <hallo@example.com>",
        "to": ["Zoë Łukasiewicz <zoe@example.org>", "李小龍 <li@example.org>"],
        "subject": "Grüße aus dem Café ☕",
        "text": "Bis bald! またね。",
    }
    yield {
        "from": shop,
        "to": ["carol@example.org"],
        "bcc": ["archive@example.com"],
        "subject": "Your invoice",
        "text": "It is attached.",
        "attachments": [
            {
                "filename": "invoice.pdf",
                "content": b"%PDF-1.4 (not really)",
                "content_type": "application/pdf",
            }
        ],
    }
    yield from messages()


def messages() -> Iterator[EmailMessage]:
    """E-mails that another part of the application has built as messages."""
    message = EmailMessage()
    message["From"] = "Support <support@example.com>"
    message["To"] = "Søren Ångström <soren@example.org>"
    message["Reply-To"] = "desk@example.com"
    message["Subject"] = "Re: Überraschung №5"
    message.set_content("We are on it.")
    message.add_alternative("<p>We are <em>on it</em>.</p>", subtype="html")
    message.add_attachment("day;count\nMon;3\n", subtype="csv", filename="häufigkeit.csv")
    yield message
    for n in range(1, 8):
        reminder = EmailMessage()
        reminder["From"], reminder["To"] = "Shop <shop@example.com>", f"customer{n}@example.org"
        reminder["Subject"] = f"Reminder {n}"
        reminder.set_content("Your basket is waiting.")
        yield reminder


def application(producer: Producer) -> dict[str, str]:
    """Send the batch; returns each id with its subject."""
    return {producer.send(email): str(email["subject"]) for email in batch()}


# The same by HTTP --------------------------------------------------------------------------------

SPEAKS = re.compile(r"listening on (http://\S+)")


def encoded(file: Mapping[str, Any]) -> dict[str, Any]:
    """A file as JSON has it."""
    return {**file, "content": base64.b64encode(file["content"]).decode()}


def body(email: EmailDict | EmailMessage) -> tuple[str, bytes]:
    """The content type and the body of a request: JSON, or the message as it is."""
    if isinstance(email, EmailMessage):
        return "message/rfc822", email.as_bytes()
    content: dict[str, Any] = {**email}
    content["attachments"] = [encoded(file) for file in content.get("attachments", ())]
    return "application/json", json.dumps(content).encode()


def curl(url: str, *arguments: str, data: bytes) -> dict[str, Any]:
    """POST with the program curl, as any other program could; returns the answer."""
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--data-binary", "@-"]
    done = subprocess.run([*command, *arguments, url], input=data, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit((done.stderr + done.stdout).decode())
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def application_without_python(url: str, producer: Producer) -> dict[str, str]:
    """Send the batch by curl; returns each id with its subject."""
    subjects = {}
    for number, email in enumerate(batch()):
        content_type, data = body(email)
        headers = {"Content-Type": content_type, "Idempotency-Key": f"order-{number}"}
        options = [word for name in headers for word in ("--header", f"{name}: {headers[name]}")]
        answer = curl(f"{url}/emails", *options, data=data)
        status = producer.status(answer["id"])
        assert status is not None
        subjects[status.id] = str(email["subject"])
    return subjects


# Three vendors on loopback -----------------------------------------------------------------------

# How often each e-mail was accepted, by its Message-ID.
accepted: Counter[str] = Counter()


def count(request: bytes) -> None:
    accepted.update(re.findall(r"<[0-9a-f]{24}@[a-z.]+>", request.decode())[:1])


class HttpVendor(BaseHTTPRequestHandler):
    """The part of a vendor's API that is needed: one path, one answer."""

    protocol_version = "HTTP/1.1"
    path_of_api: str
    answer: tuple[int, Mapping[str, Any]]

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.answer if self.path == self.path_of_api else (404, {})
        if status < 300:
            count(request)
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: the tables at the end show what happened."""


class SendGridThatIsDown(HttpVendor):
    path_of_api = "/v3/mail/send"
    answer = 503, {"errors": [{"message": "Service Unavailable", "field": None}]}


class Mailgun(HttpVendor):
    path_of_api = "/v3/mg.example.com/messages"
    answer = 200, {"id": "<20261122.1@mg.example.com>", "message": "Queued. Thank you."}


class Mailbox:
    """The SMTP server's part: it counts and accepts every message."""

    async def handle_DATA(  # noqa: N802  # aiosmtpd finds it by this name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        count(envelope.original_content or b"")
        return "250 OK"


@contextmanager
def http_vendor(handler: type[HttpVendor]) -> Iterator[str]:
    with ThreadingHTTPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


@contextmanager
def smtp_server() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    controller = Controller(Mailbox(), hostname=HOST, port=port)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


@contextmanager
def three_vendors() -> Iterator[list[dict[str, Any]]]:
    """The vendors, running, as ``config.json`` names them."""
    with (
        http_vendor(SendGridThatIsDown) as sendgrid,
        http_vendor(Mailgun) as mailgun,
        smtp_server() as port,
    ):
        mine = {"api_key": "not-a-secret", "domain": "mg.example.com"}
        yield [
            {"name": "sendgrid", "type": "sendgrid", "base_url": sendgrid, "api_key": "none"},
            {"name": "mailgun", "type": "mailgun", "base_url": mailgun, **mine},
            {"name": "smtp", "type": "smtp", "host": HOST, "port": port, "tls": "none"},
        ]


# Running it --------------------------------------------------------------------------------------


@contextmanager
def process(config: Path, *module: str) -> Iterator[subprocess.Popen[bytes]]:
    """One process of mailqueue, as anybody would start it; stopped as systemd would."""
    command = [sys.executable, "-m", *module, "--config", str(config)]
    # A signal that comes while the process is started waits: nobody could end the process yet.
    signals: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: signals.append(number))
    with config.with_suffix(".log").open("ab") as log:
        running = subprocess.Popen(
            [*dies_with_parent(), *command], stdout=log, stderr=log, start_new_session=True
        )
    try:
        for number in SIGNALS:
            signal.signal(number, interrupt)
        if signals:
            interrupt()
        yield running
    finally:
        running.terminate()
        try:
            running.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextmanager
def http_service(config: Path, *options: str) -> Iterator[str]:
    """The HTTP service; its URL, once it listens."""
    with process(config, "mailqueue", "http", "--port", "0", *options) as running:
        give_up_at = time.monotonic() + PATIENCE
        while not (line := SPEAKS.search(config.with_suffix(".log").read_text())):
            if running.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(config.with_suffix(".log").read_text())
            time.sleep(0.05)
        yield line[1]


def final_statuses(
    producer: Producer, ids: Iterable[str], consumers: Sequence[subprocess.Popen[bytes]]
) -> list[EmailStatus]:
    """Every e-mail's status, once all have ended, or time is up, or no consumer runs any more."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        statuses = [status for email_id in ids if (status := producer.status(email_id))]
        if all(status.status.final for status in statuses) or time.monotonic() > give_up_at:
            return statuses
        if all(process.poll() is not None for process in consumers):
            return statuses
        time.sleep(0.05)


# What happened -----------------------------------------------------------------------------------


def width(text: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, *rows]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * columns for columns in widths])
    text = ""
    for line in lines:
        cells = zip(line, widths, strict=True)
        padded = "".join(f"  {cell}{' ' * (columns - width(cell))}" for cell, columns in cells)
        text += padded.rstrip() + "\n"
    return text


def per_email(statuses: Iterable[EmailStatus], subjects: Mapping[str, str]) -> str:
    return table(
        ("e-mail", "status", "vendor", "attempts"),
        [
            (
                subjects[status.id],
                status.status,
                status.vendor or "-",
                ", ".join(f"{line.vendor}: {line.outcome}" for line in status.attempts),
            )
            for status in statuses
        ],
    )


def per_vendor(statuses: Iterable[EmailStatus], producer: Producer) -> str:
    attempts = Counter(
        (line.vendor, line.outcome == "accepted") for status in statuses for line in status.attempts
    )
    place = producer.config.mongodb
    health = producer.client[place.database][f"{place.collection}.vendors"]
    rows = []
    for vendor in producer.config.vendors:
        until = (health.find_one(vendor.name) or {}).get("unavailable_until")
        pause = f"{until.astimezone():%H:%M:%S}" if until else "-"
        sent, failed = attempts[vendor.name, True], attempts[vendor.name, False]
        rows.append((vendor.name, str(sent), str(failed), pause))
    return table(("vendor", "sent", "failed", "unavailable until"), rows)


def watch(config: Path, by_http: bool, dashboard: bool) -> bool:
    """Consumers, application, tables; True when every e-mail was accepted exactly once."""
    with ExitStack() as stack:
        consumers = [stack.enter_context(process(config, "mailqueue.consumer")) for _ in range(2)]
        print(f"Two consumers     processes {' and '.join(str(c.pid) for c in consumers)}")
        producer = stack.enter_context(Producer(config))
        url = ""
        if by_http or dashboard:
            wanted = ["--dashboard"] if dashboard else []
            url = stack.enter_context(http_service(config, *wanted))
            print(f"The HTTP service  {url}{', asked by curl' if by_http else ''}")
        start = time.monotonic()
        subjects = application_without_python(url, producer) if by_http else application(producer)
        took = time.monotonic() - start
        print(f"The application   stored {len(subjects)} e-mails durably in {took:.2f} s")
        statuses = final_statuses(producer, subjects, consumers)
        took = time.monotonic() - start
        print(f"All was done      after {took:.2f} s\n")
        print(per_email(statuses, subjects), per_vendor(statuses, producer), sep="\n")
        once = judge(statuses, config)
        if dashboard:
            print(f"\nThe dashboard     {url}/dashboard/ is open until Ctrl-C")
            wait_for_signal()
    if once:
        print("\nNow your own e-mails: see README.md. All that ran here is stopped and removed.")
    return once


def judge(statuses: Sequence[EmailStatus], config: Path) -> bool:
    """Say whether every e-mail was accepted exactly once."""
    once = Counter({status.message_id: 1 for status in statuses}) == accepted
    if once:
        print("sendgrid gets no e-mails for ten minutes; what it refused went to the others.")
        print(f"Each of the {len(statuses)} e-mails was accepted exactly once.")
    else:
        print("Not every e-mail was accepted exactly once. The consumers' log:", file=sys.stderr)
        print(config.with_suffix(".log").read_text(), file=sys.stderr)
    return once


def wait_for_signal() -> None:
    """Until Ctrl-C, which is how this ends well."""
    with suppress(KeyboardInterrupt):
        while True:
            signal.pause()


def interrupt(*_: object) -> None:
    """Raise KeyboardInterrupt once: a second signal must not interrupt the cleaning up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """0: all accepted, 1: not all, 3: a server or curl is missing, 130: interrupted."""
    parser = argparse.ArgumentParser(prog="quickstart.sh")
    parser.add_argument("--http", action="store_true", help="the e-mails come by HTTP, from curl")
    text = "all runs on until Ctrl-C, with a page to look at it"
    parser.add_argument("--dashboard", action="store_true", help=text)
    parser.add_argument(
        "--queue", choices=("beanstalkd", "none"), default="beanstalkd", help="none: MongoDB alone"
    )
    options = parser.parse_args()
    if options.http and not shutil.which("curl"):
        print("curl is missing (apt-get install curl)", file=sys.stderr)
        return 3
    for number in SIGNALS:  # SIGINT too: a shell's background job ignores it otherwise
        signal.signal(number, interrupt)
    # Otherwise the consumers would only simulate the vendors.
    os.environ["MAILQUEUE_ENV"] = "production"
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mailqueue-")))
            servers = stack.enter_context(devservers(queue=options.queue != "none"))
            print(f"MongoDB           {servers.mongod.uri}")
            if servers.beanstalkd:
                print(f"beanstalkd        {servers.beanstalkd.address}")
            else:
                print("No queue          consumers find in MongoDB what is due")
            vendors = stack.enter_context(three_vendors())
            print("Three vendors     sendgrid (answers 503), mailgun, smtp; all on this machine")
            config = folder / "config.json"
            config.touch(mode=0o600)  # it holds the vendors' keys
            config.write_text(json.dumps({**servers.config, "vendors": vendors}, indent=2))
            return 0 if watch(config, options.http, options.dashboard) else 1
    except ServerNotFound as missing:
        print(missing, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("\nInterrupted; everything was stopped and removed.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
