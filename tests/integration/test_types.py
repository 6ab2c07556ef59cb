"""What ``mypy --strict`` says of a user's program: right ones pass, a misspelt key is found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

PROGRAMS = {
    "email_right": """
        import json
        from email.message import EmailMessage
        from typing import Any
        from mailqueue import Address, Attachment, Email, EmailDict, Priority, Producer

        def application(producer: Producer, unknown: dict[str, Any], people: list[str]) -> None:
            mail: EmailDict = {"from": ("Ann", "ann@example.com"), "to": people, "text": "Hello"}
            mail["cc"] = ["b@example.org", Address("C", "c@example.org"), ("D", "d@example.org")]
            pairs = [("Bob", "bob@example.org")]
            several: list[EmailDict] = [{**mail, "to": pairs, "html": None} for _ in range(3)]
            made = Email(from_="ann@example.com", to=pairs, bcc=people, metadata={"n": 1})
            producer.send(mail, priority="high")
            urgency: Priority = "bulk" if len(people) > 1 else "normal"
            producer.send_many([mail], priority=urgency)
            producer.send(
                {
                    "from": "ann@example.com",
                    "to": ("Bob", "bob@example.org"),
                    "subject": "Your order",
                    "html": "<p>Hello</p>",
                    "alternatives": [{"content": "BEGIN", "content_type": "text/calendar"}],
                    "attachments": [{"content": b"abc"}, Attachment("a.txt", b"abc")],
                    "headers": {"X-A": "b"},
                    "tags": ["a"],
                    "metadata": {"order": 7, "paid": True},
                    "vendor_options": {"sendgrid": {"asm": {"group_id": 1}}},
                }
            )
            producer.send_many(several)
            producer.send_many([mail, made, EmailMessage(), {**mail, "subject": "Hi"}])
            producer.send(json.loads("{}"))
            producer.send(Email.from_mapping(unknown))
    """,
    "aio_right": """
        import asyncio
        from datetime import UTC, datetime
        from email.message import EmailMessage
        from pathlib import Path
        from mailqueue import AsyncProducer, Attachment, Email, EmailDict, EmailStatus, StoredEmail

        async def application(mail: EmailDict, made: Email) -> str:
            async with AsyncProducer("config.json") as producer:
                email_id: str = await producer.send(mail, priority="high", idempotency_key="a")
                ids: list[str] = await producer.send_many([mail, made, EmailMessage()])
                results: list[str] = await asyncio.gather(*(producer.send(made) for _ in ids))
                status: EmailStatus | None = await producer.status(email_id)
                stored: StoredEmail | None = await producer.find(email_id)
                page: list[StoredEmail] = await producer.recent(20, after=results[0])
                moved: bool = await producer.reschedule(email_id, datetime.now(UTC))
                await producer.cancel(ids[0])
                await producer.check_writable()
                if stored is not None and stored.email is not None:
                    mail["subject"] = stored.email.subject
                mail["attachments"] = [Attachment.from_path(Path("a.pdf"), filename="b.pdf")]
                return str(await producer.announce(ids)) + str((status, page, moved))

        async def without_block(path: Path) -> None:
            producer = await AsyncProducer(path).connect()
            await producer.aclose()
    """,
    "aio_wrong": """
        from mailqueue import AsyncProducer, EmailDict

        async def application(producer: AsyncProducer, mail: EmailDict) -> None:
            with producer:  # wrong
                pass
            email_id: str = producer.send(mail)  # wrong
            producer.send(mail)  # wrong
            await producer.send(mail, priority="urgent")  # wrong
            await producer.send({**mail, "sbject": "Hi"})  # wrong
            await producer.reschedule("id", "tomorrow")  # wrong
            await producer.recent("20")  # wrong
            (await producer.find("id")).email  # wrong
    """,
    "email_wrong": """
        from typing import Any
        from mailqueue import Email, EmailDict, Producer
        from mailqueue import EmialDict  # wrong

        def application(producer: Producer, unknown: dict[str, Any]) -> None:
            mail: EmailDict = {"from": "ann@example.com", "to": "b@example.org", "txt": ""}  # wrong
            mail["sbject"] = "Hi"  # wrong
            producer.send({"from": "ann@example.com", "to": "b@example.org", "txt": ""})  # wrong
            producer.send({"from": "ann@example.com", "to": 7, "text": ""})  # wrong
            producer.send({"to": "b@example.org", "text": ""})  # wrong
            producer.send({**mail, "attachments": [{"content": "abc"}]})  # wrong
            producer.send({**mail, "attachments": [{"contents": b"abc"}]})  # wrong
            producer.send_many([mail, {**mail, "sbject": "Hi"}])  # wrong
            producer.send(unknown)  # wrong
            producer.send(mail, priority="urgent")  # wrong
            Email(from_="ann@example.com", to="b@example.org", sbject="Hi")  # wrong
            Email(from_="ann@example.com", to=7)  # wrong
            Email(from_="ann@example.com", headers="X-A: b")  # wrong
            Email(to="b@example.org", text="")  # wrong
    """,
    "vendor_right": """
        from mailqueue import Email
        from mailqueue.vendors import Response, Attempt, HttpVendor, Outcome, Request, SendResult

        class Pigeon(HttpVendor):
            def build(self, email: Email, attempt: Attempt) -> Request:
                return Request("/flights", (email.text or "").encode(), {})

            def parse(self, response: Response, email: Email) -> SendResult:
                return SendResult(outcome=Outcome.ACCEPTED, code=str(response.status))
    """,
    "vendor_wrong": """
        from mailqueue.vendors import Httpvendor  # wrong
        from mailqueue.vendors import Outcome, SendResult

        SendResult(outcome="accepted")  # wrong
        SendResult(outcome=Outcome.ACEPTED)  # wrong
    """,
    "config_right": """
        import json
        from mailqueue import Config
        from mailqueue.config import Retry, VendorConfig

        config = Config(
            mongodb={"uri": "mongodb://127.0.0.1:27017", "timeout": 5},
            beanstalkd={"servers": ["127.0.0.1:11300"]},
            vendors=[
                {"name": "a", "type": "sendgrid", "api_key": "${KEY}", "from": "ann@example.com"},
                {"name": "b", "type": "smtp", "host": "mail.example.com", "tls": "implicit"},
                VendorConfig("c", "pigeons:Pigeon", keys={"loft": "secret"}),
            ],
            retry=Retry(base=5),
            delivery={"on_unknown": "park"},
        )
        config.replace(retry={"cap": 60}, vendors=config.vendors)
        Config.from_mapping(json.loads("{}"))
    """,
    "config_wrong": """
        from mailqueue import Config
        from mailqueue.config import Delivery, Retry

        Config(rety={"base": 5})  # wrong
        Config(retry={"bse": 5})  # wrong
        Config(retry={"base": "5"})  # wrong
        Config(retry=Retry(bse=5))  # wrong
        Config(delivery=Delivery(on_unknown="prak"))  # wrong
        Config(mongodb="mongodb://127.0.0.1:27017")  # wrong
        Config(delivery={"on_unknown": "prak"})  # wrong
        Config(vendors=[{"name": "a", "type": "sendgrid", "api_kee": "x"}])  # wrong
        Config(vendors=[{"name": "a", "type": "smtp", "tls": "ssl"}])  # wrong
        Config(vendors=[{"type": "smtp", "host": "mail.example.com"}])  # wrong
        Config().replace(retry={"bse": 5})  # wrong
    """,
}


ERROR = re.compile(r"(\w+)\.py:(\d+): error: ")


def test_a_type_checker_finds_every_misspelt_key_and_wrong_type_and_nothing_else(
    tmp_path: Path,
) -> None:
    """One run over all programs, in a folder of a user's: mypy takes seconds to begin."""
    wrong = set()
    for name, program in PROGRAMS.items():
        lines = dedent(program).splitlines()
        (tmp_path / f"{name}.py").write_text("\n".join(lines), "utf-8")
        wrong |= {(name, n) for n, line in enumerate(lines, 1) if line.endswith("# wrong")}
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=.cache", "."]
    answer = subprocess.run(mypy, cwd=tmp_path, check=False, capture_output=True, text=True)
    found = {(name, int(line)) for name, line in ERROR.findall(answer.stdout)}
    assert found == wrong, answer.stdout + answer.stderr
