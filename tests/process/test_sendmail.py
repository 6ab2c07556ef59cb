"""``mailqueue sendmail`` as cron, PHP and scripts call it: real processes with pipes."""

from __future__ import annotations

import io
import os
import pty
import pwd
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mailqueue.smtp import sendmail
from tests.process.conftest import Consumers, program
from tests.servers import BreakableServers
from tests.smtp_service import REPO, write_config
from tests.stage import Stage

MESSAGE = "From: ann@example.com\nTo: bob@example.org\nSubject: Hi\n\nHello\n"
HOST = (
    next(iter(Path("/etc/mailname").read_text().split()), "")
    if Path("/etc/mailname").exists()
    else socket.getfqdn()
)
USER = pwd.getpwuid(os.geteuid()).pw_name
Ended = subprocess.CompletedProcess[str]


@pytest.fixture
def command(stage: Stage, tmp_path: Path) -> Path:
    """``/usr/sbin/sendmail`` as it is in examples/, leading to this test's configuration."""
    return install(stage, tmp_path)


def install(stage: Stage, folder: Path) -> Path:
    stage.smtp("any")
    config = write_config(folder / "sendmail", stage.settings)
    text = (REPO / "examples/sendmail.sh").read_text()
    mailqueue = f"{shlex.quote(sys.executable)} -m mailqueue"
    text = text.replace("/opt/mailqueue/bin/mailqueue", mailqueue)
    text = text.replace("/etc/mailqueue/config.json", str(config))
    path = folder / "sendmail" / "sendmail"
    path.write_text(text)
    path.chmod(0o755)
    return path


def call(command: Path, *arguments: str, text: str = MESSAGE) -> Ended:
    return subprocess.run(
        [command, *arguments],
        input=text,
        text=True,
        capture_output=True,
        check=False,
        cwd=REPO,
        timeout=60,
    )


def stored(stage: Stage) -> dict[str, Any]:
    (document,) = stage.emails.find()
    assert document["env"] == "production"
    email: dict[str, Any] = document["email"]
    return email


def test_a_message_with_its_recipients_in_the_header_fields(stage: Stage, command: Path) -> None:
    text = "Cc: carol@example.org\nBcc: dan@example.org\n" + MESSAGE
    ended = call(command, "-t", "-i", text=text)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert stored(stage) == {
        "from": "ann@example.com",
        "to": ["bob@example.org"],
        "cc": ["carol@example.org"],
        "bcc": ["dan@example.org"],
        "subject": "Hi",
        "text": "Hello\n",
    }


def test_it_is_sent_to_those_whom_bcc_names_and_they_are_not_shown(
    stage: Stage, command: Path, ready: Consumers
) -> None:
    assert call(command, "-t", text="Bcc: dan@example.org\n" + MESSAGE).returncode == 0
    ready(stage)
    stage.until(sent=1)
    assert b"dan@" not in next(iter(stage.emails.find()))["message_id"].encode()


def test_recipients_on_the_command_line(stage: Stage, command: Path) -> None:
    assert call(command, "eve@example.org", "--", "dan@example.org").returncode == 0
    email = stored(stage)
    assert email["to"] == ["bob@example.org"]
    assert email["envelope"] == {"recipients": ["eve@example.org", "dan@example.org"]}


def test_as_a_shell_pipes_a_few_words_into_it(stage: Stage, command: Path) -> None:
    subprocess.run(f"echo 'Disk füll' | {command} root", shell=True, check=True, cwd=REPO)
    assert stored(stage) == {
        "from": f"{USER}@{HOST}",
        "to": [f"root@{HOST}"],
        "text": "Disk füll\n",
    }


def test_as_cron_calls_it(stage: Stage, command: Path) -> None:
    text = (
        "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> /bin/backup\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n"
        "Content-Transfer-Encoding: 8bit\nX-Cron-Env: <SHELL=/bin/sh>\n"
        "X-Cron-Env: <HOME=/root>\n\nfertig für heute\n"
    )
    arguments = ["-i", "-FCronDaemon", "-odi", "-oem", "-oi", "-B8BITMIME", "-f", "root", "root"]
    ended = call(command, *arguments, text=text)
    assert (ended.returncode, ended.stderr) == (0, "")
    email = stored(stage)
    assert (email["from"], email["to"]) == (f"root@{HOST}", [f"root@{HOST}"])
    assert email["text"] == "fertig für heute\n"


def test_as_php_calls_it(stage: Stage, command: Path) -> None:
    arguments = "'Bob <bob@example.org>', 'Hi', 'Hallo', $argv[1], '-f' . $argv[2]"
    code = f"exit((int) !mail({arguments}));"
    headers = "From: Ann <ann@example.com>\r\nBcc: dan@example.org\r\nX-Mailer: PHP"
    php = [program("php"), "-d", f"sendmail_path={command} -t -i", "-r", code]
    subprocess.run([*php, "--", headers, "bounce@example.com"], check=True, cwd=REPO)
    email = stored(stage)
    assert email["from"] == "Ann <ann@example.com>"
    assert (email["to"], email["bcc"]) == (["Bob <bob@example.org>"], ["dan@example.org"])
    assert email["envelope"] == {"from": "bounce@example.com"}


def test_a_sender_and_a_name_for_a_message_that_has_none(stage: Stage, command: Path) -> None:
    arguments = ("-f", "ann@example.com", "-F", "Ann B.", "-t")
    assert call(command, *arguments, text="To: bob@example.org\n\nHi\n").returncode == 0
    assert stored(stage)["from"] == '"Ann B." <ann@example.com>'


def test_the_null_sender(stage: Stage, command: Path) -> None:
    assert call(command, "-f", "<>", "-t").returncode == 0
    assert stored(stage)["envelope"] == {"from": ""}


def test_a_dot_alone_ends_the_message_without_i(stage: Stage, command: Path) -> None:
    text = MESSAGE + ".\nmore\n"
    assert call(command, "-t", text=text).returncode == 0
    assert stored(stage)["text"] == "Hello\n"
    assert call(command, "-t", "-i", text=text).returncode == 0
    assert stage.emails.count_documents({"email.text": "Hello\n.\nmore\n"}) == 1


@pytest.mark.parametrize(
    "code, arguments, text, words",
    [
        (64, [], MESSAGE, "name a recipient"),
        (64, ["-bs"], MESSAGE, "-bs is not supported"),
        (64, ["-q"], MESSAGE, "-q"),
        (64, ["--nonsense"], MESSAGE, "usage: mailqueue sendmail"),
        (65, ["-t"], "From: ann@example.com\n\nHi\n", "to: names nobody"),
        (65, ["nobody@"], MESSAGE, "recipients[0]"),
        (65, ["-t"], MESSAGE.replace("ann@", "ann@@"), "from: "),
    ],
)
def test_what_is_wrong_is_said_by_an_exit_code_and_a_line(
    stage: Stage, command: Path, code: int, arguments: list[str], text: str, words: str
) -> None:
    ended = call(command, *arguments, text=text)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert words in ended.stderr
    assert "ann@" not in ended.stderr
    assert stage.emails.count_documents({}) == 0


def test_78_without_a_configuration() -> None:
    command = [sys.executable, "-m", "mailqueue", "sendmail", "-t", "--config", "/nowhere/c.json"]
    ended = subprocess.run(
        command, input=MESSAGE, text=True, capture_output=True, check=False, cwd=REPO
    )
    assert (ended.returncode, ended.stdout) == (78, "")
    assert "c.json" in ended.stderr


def test_a_message_that_is_too_large_is_not_read_to_its_end(stage: Stage, tmp_path: Path) -> None:
    stage.settings["limits"] = {"max_size": 1000}
    command = install(stage, tmp_path)
    for arguments in (["-t"], ["-t", "-i"]):
        ended = call(command, *arguments, text=MESSAGE + "x" * 79 + "\n" * 1_000_000)
        assert (ended.returncode, "limits.max_size" in ended.stderr) == (65, True)


class Stream(io.RawIOBase):
    """A pipe with a megabyte; ``left``: bytes that nobody has read."""

    def __init__(self, octets: bytes) -> None:
        self._octets, self.left = octets, 2**20

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        number = min(len(buffer), self.left)
        buffer[:number] = (self._octets * number)[:number]
        self.left -= number
        return number


@pytest.mark.parametrize("octets", [b"x\r\n", b"x"], ids=["lines", "one line"])
@pytest.mark.parametrize("dot_is_text", [True, False])
def test_of_a_message_without_an_end_little_more_is_read_than_it_may_have(
    octets: bytes, dot_is_text: bool
) -> None:
    stream = Stream(octets)
    raw = sendmail._read(io.BufferedReader(stream), 1000, dot_is_text=dot_is_text)
    assert 1000 < len(raw) <= 2002
    assert stream.left > 2**19


def test_75_while_mongodb_is_away(
    fragile_stage: Stage, servers_to_break: BreakableServers, tmp_path: Path
) -> None:
    fragile_stage.settings["mongodb"]["timeout"] = 1
    command = install(fragile_stage, tmp_path)
    servers_to_break.mongod.stop()
    ended = call(command, "-t")
    assert (ended.returncode, ended.stdout) == (75, "")
    assert ended.stderr.startswith("sendmail: not stored: ")


def test_without_a_pipe_it_says_how_it_is_called(command: Path) -> None:
    parent, child = pty.openpty()
    try:
        ended = subprocess.run(
            [command, "-t"], stdin=child, capture_output=True, text=True, check=False, cwd=REPO
        )
    finally:
        os.close(parent)
        os.close(child)
    assert ended.returncode == 64
    assert "usage: mailqueue sendmail" in ended.stderr


@pytest.mark.parametrize("option", ["--config=other.json", "--conf=other.json"])
def test_who_calls_the_script_chooses_no_other_configuration(
    stage: Stage, command: Path, option: str
) -> None:
    """Programs put what strangers say on its command line; it would lead mail elsewhere."""
    ended = call(command, "-t", "-i", option)
    assert (ended.returncode, stage.emails.count_documents({})) == (64, 0)
    assert "--config is given more than once" in ended.stderr


def test_help_is_no_mistake() -> None:
    for arguments in (["--help"], ["-t", "--help"]):
        shown = subprocess.run(
            [sys.executable, "-m", "mailqueue", "sendmail", *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=REPO,
        )
        assert shown.stdout == sendmail.USAGE


def test_the_configuration_may_stand_before_the_verb(stage: Stage, command: Path) -> None:
    config = str(command.parent / "config.json")
    options = [sys.executable, "-m", "mailqueue", "--config", config]
    for words, code in (["sendmail", "-t"], 0), (["--json", "sendmail"], 2):
        ended = subprocess.run(
            [*options, *words], input=MESSAGE, text=True, capture_output=True, check=False, cwd=REPO
        )
        assert ended.returncode == code
    assert "mailqueue sendmail --help" in ended.stderr
    assert stage.emails.count_documents({}) == 1


def test_nothing_of_the_extra_is_needed_and_the_server_says_that_it_needs_it() -> None:
    hidden = "import sys; sys.modules['aiosmtpd'] = None; "
    subprocess.run(
        [sys.executable, "-c", hidden + "import mailqueue.smtp.sendmail"], check=True, cwd=REPO
    )
    serve = "from mailqueue import cli; sys.exit(cli.main(sys.argv[1:]))"
    ended = subprocess.run(
        [sys.executable, "-c", hidden + serve, "smtp", "--config", "sample_config.json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPO,
    )
    assert ended.returncode == 2
    assert "pip install 'mailqueue[smtp]'" in ended.stderr
