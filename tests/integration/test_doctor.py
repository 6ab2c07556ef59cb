"""What ``mailqueue doctor`` finds, each situation made for real where that can be."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import greenstalk
import pytest
import redis
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import ExecutionTimeout

from mailqueue import Producer, cli
from mailqueue.cli import installation
from mailqueue.config import Config, Redis, VendorConfig
from mailqueue.config import file as config_file
from mailqueue.consumer import Consumer
from mailqueue.consumer.__main__ import main as consumer_command
from mailqueue.errors import ConfigError, MissingExtra
from mailqueue.lifecycle.outcomes import SendResult
from mailqueue.message import Email
from mailqueue.store.keys import Keys
from mailqueue.vendors.base import Attempt, Vendor
from tests.conftest import _running as running
from tests.faults.conftest import consuming
from tests.servers import BreakableBeanstalkd, BreakableRedis, MongodWithUsers
from tests.stage import Stage, letter

Document = dict[str, Any]
Findings = set[tuple[str, str, str]]
Doctor = Callable[..., Findings]
AGO = datetime.now(UTC) - timedelta(days=2)


@pytest.fixture
def examine(config_mapping: Document, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Ask the doctor about this configuration, with changed keys; what it finds amiss."""

    def made(**changes: Any) -> Findings:
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**config_mapping, **changes}))
        file.chmod(0o600)
        capsys.readouterr()
        code = cli.main(["--config", str(file), "doctor", "--json"])
        found = json.loads(capsys.readouterr().out)["findings"]
        assert code == any(finding["level"] == "FAIL" for finding in found)
        assert all(finding["todo"] for finding in found if finding["level"] != "OK")
        return {(f["level"], f["check"], f["text"]) for f in found}

    return made


class Broken(Vendor):
    """A vendor of one's own that cannot be made."""

    def __init__(self, config: VendorConfig) -> None:
        raise RuntimeError("no such thing")

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        raise AssertionError("it was never made")


# --- indexes


def test_too_many_emails_to_look_for_old_keys_are_not_mistaken_for_an_outage(
    examine: Doctor, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    Consumer(config, burst=True).run()

    def too_many(_: Keys) -> bool:
        raise ExecutionTimeout("operation exceeded time limit", 50)

    monkeypatch.setattr(Keys, "has_unused_index", too_many)
    findings = examine()
    assert not {finding for finding in findings if finding[1] == "mongodb" and finding[0] == "FAIL"}
    text = "idempotency_key: whether an e-mail needs it was not found out in 60 s"
    assert ("WARN", "indexes", text) in findings
    assert "vendors" in {check for _, check, _ in findings}


# --- who consumes


def test_due_emails_without_a_consumer_are_a_failure(examine: Doctor, producer: Producer) -> None:
    producer.send(letter(3), send_at=datetime.now(UTC) + timedelta(days=1))
    (text,) = (said for level, what, said in examine() if (level, what) == ("WARN", "consumers"))
    assert text.endswith(": if none runs, what is stored from now on waits")
    producer.send_many([letter(1), letter(2)])
    (text,) = (said for level, what, said in examine() if (level, what) == ("FAIL", "consumers"))
    assert text.startswith(
        "none gave a sign of life for 60 s, and e-mails are due, the oldest for "
    )


def test_another_name_of_the_queue_may_be_the_same_place(stage: Stage, examine: Doctor) -> None:
    stage.vendor("first")
    with consuming(stage):
        found = examine(vendors=stage.settings["vendors"], beanstalkd={"tube": "mailqueue_test_x"})
    (finding,) = [each for each in found if each[1] == "queue"]
    assert finding[0] == "WARN"
    assert stage.config.broker.place in finding[2]
    assert "tube mailqueue_test_x of" in finding[2]


# --- what is shown


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_levels_have_colours_unless_its_user_wants_none(
    no_color: str, config_mapping: Document, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    nowhere = {"uri": "mongodb://127.0.0.1:9", "timeout": 0.2}
    file.write_text(json.dumps({**config_mapping, "mongodb": nowhere}))
    file.chmod(0o600)
    command = [sys.executable, "-m", "mailqueue", "--config", str(file), "doctor"]
    environ = os.environ | {"NO_COLOR": no_color, "TERM": "xterm", "MAILQUEUE_ENV": "production"}
    terminal, child = pty.openpty()
    with subprocess.Popen(command, stdout=child, env=environ) as process:
        os.close(child)
        text = b""
        with suppress(OSError):  # how a terminal says that its last program has ended
            while chunk := os.read(terminal, 65536):
                text += chunk
    os.close(terminal)
    assert process.returncode == 1
    lines = text.decode().splitlines()
    assert lines[1].startswith("FAIL  mongodb" if no_color else "\x1b[31mFAIL\x1b[0m  mongodb")
    assert "docs/operating.md#mongodb-unavailable" in [line.strip() for line in lines]
    assert lines[-1] == "1 FAIL; the worst stands first"


# --- servers


def test_buried_jobs_and_a_server_that_drains_are_told(examine: Doctor, config: Config) -> None:
    tube = config.beanstalkd.tube
    with running(BreakableBeanstalkd()) as server:
        with greenstalk.Client(("127.0.0.1", server.port), use=tube, watch=tube) as client:
            client.put("nobody's")
            client.bury(client.reserve())
        os.kill(server.pid, signal.SIGUSR1)
        findings = examine(beanstalkd={"servers": [server.address], "tube": tube})
    assert {finding for finding in findings if finding[1] == "beanstalkd"} == {
        ("OK", "beanstalkd", f"{server.address}: reached, 0 jobs ready"),
        ("WARN", "beanstalkd", f"{server.address}: 1 buried job"),
        ("WARN", "beanstalkd", f"{server.address}: is draining, it takes no new jobs"),
    }


def test_a_paused_tube_is_a_warning(examine: Doctor, producer: Producer, config: Config) -> None:
    producer.send(letter(1))
    tube = config.beanstalkd.tube
    with greenstalk.Client(config.beanstalkd.addresses[0]) as client:
        client.pause_tube(tube, 3600)
        warnings = [said for level, _, said in examine() if level == "WARN"]
        client.pause_tube(tube, 0)
    assert any("the tube is paused for" in said for said in warnings)
    assert not any("the tube is paused" in said for _, _, said in examine())


@pytest.mark.parametrize(
    "uri, problem",
    [
        ("mongodb://db.example.org", "without TLS"),
        ("mongodb://127.0.0.1,db.example.org:27018/x?w=1", "without TLS"),
        ("mongodb://u:p@db.example.org/?tls=true&tlsInsecure=true", "with tlsInsecure"),
        ("mongodb+srv://db.example.org/?tls=false", "without TLS"),
        ("mongodb://[2001:db8::1]:27017", "without TLS"),
        ("mongodb://db.example.org/?ssl=true", None),
        ("mongodb+srv://db.example.org", None),
        ("mongodb://[::1]:27017,localhost", None),
    ],
)
def test_mongodb_on_another_host_is_to_be_reached_by_verified_tls(
    uri: str, problem: str | None
) -> None:
    found = [finding.text for finding in installation.on_the_way(uri)]
    assert found == ([] if problem is None else [f"on another host {problem}"])


def test_options_of_the_uri_that_are_ignored_are_named(
    examine: Doctor, producer: Producer, config_mapping: Document
) -> None:
    mongodb = config_mapping["mongodb"]
    weak = {**mongodb, "uri": mongodb["uri"] + "&w=1&retryWrites=false"}
    assert ("WARN", "mongodb", "w, retryWrites in the URI: ignored") in examine(mongodb=weak)


def test_a_user_of_mongodb_that_may_not_write_is_told_where(
    examine: Doctor, config_mapping: Document
) -> None:
    mongodb = config_mapping["mongodb"]
    database, name = mongodb["database"], mongodb["collection"]
    own = ("", ".vendors", ".leases", ".suppressed")
    privileges = [
        {
            "resource": {"db": database, "collection": f"{name}{suffix}"},
            "actions": ["find", "insert", "update", "remove", "listIndexes", "createIndex"],
        }
        for suffix in own
    ]
    with running(MongodWithUsers()) as server:
        server.create_user("root", "root")
        with MongoClient[Document](server.uri_of("root")) as client:
            client[database].command("createRole", "sender", privileges=privileges, roles=["read"])
        roles = {"reader": "read", "writer": "readWrite", "sender": "sender"}
        for user, role in roles.items():
            server.create_user(user, {"role": role, "db": database}, by="root")
        server.create_user("nobody", by="root")
        found = {
            user: {
                finding
                for finding in examine(mongodb=mongodb | {"uri": server.uri_of(user)})
                if finding[1] == "mongodb" and finding[0] != "OK"
            }
            for user in (*roles, "nobody")
        }
        with MongoClient[Document](server.uri_of("root")) as client:
            assert client[database].list_collection_names() == []
    emails = f"{database}.{name}"
    essential = f"{emails} (update and remove), {emails}.vendors (update), {emails}.leases (update)"
    further = f"{emails}.stats (update), {emails}.control (update)"
    begin = "its user may not write to "
    both = {("FAIL", "mongodb", begin + essential), ("WARN", "mongodb", begin + further)}
    some = {("WARN", "mongodb", begin + further)}
    assert found == {"reader": both, "nobody": both, "writer": set(), "sender": some}


# --- vendors


def test_smtp_without_tls_to_another_host_is_a_warning(examine: Doctor) -> None:
    entry = {"name": "relay", "type": "smtp", "host": "smtp.example.org", "tls": "none"}
    warning = ("WARN", "vendors", "relay is reached without TLS")
    assert warning in examine(vendors=[entry])
    assert warning not in examine(vendors=[{**entry, "host": "127.0.0.1"}])


@pytest.mark.parametrize(
    "entry, said",
    [
        (
            {"type": f"{__name__}:Broken"},
            f"vendors.own.type: cannot create {__name__}:Broken: RuntimeError",
        ),
        (
            {"type": "no_such_module:Nothing"},
            "vendors.own.type: cannot import no_such_module:Nothing",
        ),
        (
            {"type": "sendgrid", "api_key": "x", "ca_file": "/no/such/file"},
            "vendors.own.ca_file: cannot be read as a file of PEM certificates",
        ),
    ],
)
def test_a_vendor_that_cannot_be_made_is_a_failure(
    entry: Document, said: str, examine: Doctor
) -> None:
    assert ("FAIL", "vendors", said) in examine(vendors=[{"name": "own", **entry}])


def test_events_whose_secret_is_unset_stop_no_consumer_and_are_warned_of(
    examine: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVENTS_KEY", raising=False)
    entry = {"name": "own", "type": "mailgun", "api_key": "k", "domain": "example.com"}
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    findings = examine(vendors=[{**entry, "events": {"secret": "${EVENTS_KEY}"}}])
    problem = "a secret is empty: set its environment variable for mailqueue http"
    assert ("WARN", "events", f"vendors.own.events: {problem}") in findings
    assert ("OK", "secrets", "set") in findings


def test_an_ses_without_keys_where_botocore_is_missing_is_a_failure_for_doctor_and_consumer(
    examine: Doctor, config_mapping: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("botocore", "botocore.session"):
        monkeypatch.setitem(sys.modules, name, None)
    entries = [{"name": "own", "type": "ses", "region": "eu-west-1"}]
    [said] = [
        said
        for level, what, said in examine(vendors=entries)
        if (level, what) == ("FAIL", "vendors")
    ]
    assert said.startswith("vendors.own: ")
    assert said.endswith("is not installed: pip install 'mailqueue[ses]'")
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    with pytest.raises(ConfigError) as refused:
        Consumer(Config.from_mapping({**config_mapping, "vendors": entries}))
    assert refused.value.problems == (said,)


# --- indexes


@contextmanager
def wrong_index(emails: Collection[Document]) -> Iterator[None]:
    """Another program has made an index of that name."""
    emails.create_index([("created_at", 1), ("_id", 1)], sparse=True)
    yield
    emails.drop_indexes()


def test_an_index_that_the_server_refuses_is_a_configuration_error_that_names_it(
    config: Config,
    config_mapping: Document,
    emails: Collection[Document],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not an outage: who waits for it waits for ever."""
    problem = "mongodb.collection: the index on (created_at, _id) is refused"
    with wrong_index(emails):
        with pytest.raises(ConfigError) as raised:
            Producer(config).__enter__()
        assert str(raised.value).startswith(problem)
        with pytest.raises(ConfigError, match="is refused"):
            Consumer(config).run()
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config_mapping))
        file.chmod(0o600)
        assert consumer_command(["--config", str(file)]) == 2
    assert problem in capsys.readouterr().err


def test_a_redis_that_forgets_evicts_or_holds_what_nobody_wants_is_named(examine: Doctor) -> None:
    with running(BreakableRedis(aof=False)) as server, redis.Redis.from_url(server.url) as client:
        place = f"127.0.0.1:{server.port}/0"
        queue = {"type": "redis", "url": server.url}
        assert ("FAIL", "redis", f"{place}: keeps nothing over a restart") in examine(queue=queue)
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lfu")
        client.zadd("{mailqueue}:buried", {"4:nonsense": 1})
        client.xadd("mailqueue.intake", {"event": "{}"})
        client.xadd("{mailqueue.intake}.buried", {"event": "{}"})
        evicts = f"{place}: may evict our keys when its memory is full (allkeys-lfu)"
        found = {finding for finding in examine(queue=queue) if finding[1] in {"redis", "intake"}}
        assert found == {
            ("OK", "redis", f"{place}: reached, 0 jobs ready"),
            ("WARN", "redis", evicts),
            ("WARN", "redis", f"{place}: 1 buried job"),
            ("WARN", "intake", f"{place}: 1 buried event of mailqueue.intake"),
            ("FAIL", "intake", f"{place}: 1 event on mailqueue.intake, and nobody stores them"),
        }
    gone = f"{place}: not reached (redis: ConnectionRefusedError)"
    assert ("FAIL", "redis", gone) in examine(queue=queue)


def test_what_is_no_redis_server_is_called_so(examine: Doctor, config: Config) -> None:
    server = config.beanstalkd.servers[0]
    queue = {"type": "redis", "url": f"redis://{server}/0"}
    problem = "redis: is no Redis server: it speaks another protocol"
    assert ("FAIL", "redis", f"{server}/0: not reached ({problem})") in examine(queue=queue)


def test_a_section_beanstalkd_that_does_not_count_is_a_warning(examine: Doctor) -> None:
    warning = ("WARN", "config", "beanstalkd: does not count beside queue")
    assert warning in examine(queue={"type": "mongodb"})
    assert warning not in examine(queue={"type": "mongodb"}, beanstalkd={})
    assert warning not in examine()


@pytest.mark.parametrize("package, extra", [("redis", "redis"), ("boto3", "sqs")])
def test_a_queue_whose_package_is_not_installed_is_told_by_doctor_and_consumer_in_one_line(
    package: str,
    extra: str,
    examine: Doctor,
    config_mapping: Document,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.startswith(f"mailqueue.queue.{extra}")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    url = "https://sqs.eu-west-1.amazonaws.com/1/"
    keys = {"region": "eu-west-1", "urgent": f"{url}urgent", "normal": f"{url}normal"}
    queue = {"type": extra, **(keys if extra == "sqs" else {})}
    problem = f'queue.type is "{extra}", and {package} is not installed'
    problem += f": pip install 'mailqueue[{extra}]'"
    assert ("FAIL", extra, problem) in examine(queue=queue)
    (tmp_path / "config.json").write_text(json.dumps({**config_mapping, "queue": queue}))
    with pytest.raises(MissingExtra):
        Producer(tmp_path / "config.json").send(letter(1))
    assert consumer_command(["--config", str(tmp_path / "config.json")]) == 2
    assert capsys.readouterr().err == f"mailqueue.consumer: {problem}\n"


def test_redis_without_tls_on_another_host_is_a_warning(
    examine: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(BreakableRedis()) as server:
        monkeypatch.setattr(Redis, "host", "redis.example.org")
        queue = {"type": "redis", "url": server.url}
        place = f"127.0.0.1:{server.port}/0"
        assert ("WARN", "redis", f"{place}: is reached without TLS") in examine(queue=queue)


def test_a_password_in_the_url_of_the_queue_is_a_secret_of_the_file(
    config_mapping: Document,
) -> None:
    with_password = {**config_mapping, "queue": {"type": "redis", "url": "redis://:x@localhost"}}
    assert config_file.spells_out_secrets(with_password, ("name", "type", "host"))
    assert not config_file.spells_out_secrets(config_mapping, ("name", "type", "host"))
