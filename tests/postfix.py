"""Postfix, run privately: a folder of its own, loopback, a free port, no system's service touched.

The program is the installed one, or the one that ``tests/run.sh`` unpacked into the virtual
environment. Its master wants to be root and its other programs to be nobody in particular, for
which accounts that every Debian has will do.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Self

import trustme

from mailqueue.devserver.process import dies_with_parent
from tests.vendor_servers import HOST
from tests.waiting import wait_until

HELD = "example.net"  # the domain whose mailboxes it holds
SIZE = 20_000
ROOM = 6  # connections at a time

_OWNER, _GROUP, _READER = "mail", "news", "nobody"  # of the queue, of its drop, of the mailboxes
_QUEUE = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop"),
    *("pid", "private", "public", "saved", "trace"),
)
_MAIN = """\
compatibility_level = 3.6
import_environment = LD_LIBRARY_PATH={libraries} LANG=C MAIL_CONFIG={folder}
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {folder}
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file_prefixes = {folder}
maillog_file = {folder}/log
mail_owner = {owner}
setgid_group = {group}
inet_protocols = ipv4
myhostname = mx.example.net
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = {held}
virtual_mailbox_base = {folder}
virtual_mailbox_maps = static:mail/
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
message_size_limit = {size}
smtpd_peername_lookup = no
smtpd_tls_chain_files = {folder}/chain.pem
smtpd_tls_security_level = encrypt
smtpd_client_connection_count_limit = {room}
smtpd_client_event_limit_exceptions =
smtpd_helo_restrictions = reject_non_fqdn_helo_hostname
smtpd_recipient_restrictions =
    check_recipient_access texthash:{folder}/recipients reject_unauth_destination
"""
_ACCEPTING = """\
smtpd_tls_security_level = none
smtpd_client_connection_count_limit = 0
smtpd_helo_restrictions =
smtpd_recipient_restrictions = check_recipient_access static:HOLD, reject_unauth_destination
"""
# max_use: every connection meets the table of recipients as it is then.
_MASTER = """\
{host}:{port} inet n - n - - smtpd -o max_use=1
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
error unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


def missing() -> str | None:
    """Why Postfix cannot be run here; None: it can."""
    if os.geteuid():
        return "Postfix's master runs as root only"
    return "no Postfix: tests/run.sh fetches it on Debian and Ubuntu" if _root() is None else None


def _root() -> Path | None:
    """Where Postfix's files lie."""
    places = (Path(sys.prefix) / "postfix", Path("/"))
    return next((p for p in places if (p / "usr/lib/postfix/sbin/master").is_file()), None)


def _libraries(root: Path) -> str:
    """Those that were unpacked beside it; the installed one finds its own."""
    places = ("usr/lib/postfix", "usr/lib/*-linux-gnu", "lib/*-linux-gnu")
    unpacked = root != Path("/")
    found = [path for place in places for path in root.glob(place)] if unpacked else []
    return ":".join(map(str, found))


def smtp_source(port: int, messages: int, sessions: int) -> None:
    """Postfix's own client hands over so many messages of 1,000 bytes, each on a connection."""
    root = _root()
    assert root is not None
    with tempfile.TemporaryDirectory(prefix="mailqueue-smtp-source-") as folder:
        libraries = root / "usr/lib/postfix"
        settings = (
            f"compatibility_level = 3.6\ninet_protocols = ipv4\nshlib_directory = {libraries}\n"
        )
        (Path(folder) / "main.cf").write_text(settings)
        options = ["-s", str(sessions), "-m", str(messages), "-l", "1000"]
        options += ["-f", "ann@example.com", "-t", f"bob@{HELD}", f"{HOST}:{port}"]
        environ = {"LD_LIBRARY_PATH": _libraries(root), "MAIL_CONFIG": folder}
        subprocess.run(
            [root / "usr/sbin/smtp-source", *options],
            check=True,
            capture_output=True,
            env={"PATH": os.environ["PATH"], **environ},
        )


class Postfix:
    """A context manager. It takes mail for ``HELD`` over STARTTLS with ``certificate``."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        root = _root()
        assert root is not None
        self._root = root
        self._certificate = certificate
        with socket.create_server((HOST, 0)) as probe:
            self.port: int = probe.getsockname()[1]

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="mailqueue-postfix-"))
        try:
            self._furnish()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """The master takes its children with it; they share its process group."""
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.folder)

    def refuse(self, replies: dict[str, str]) -> None:
        """What it says to these recipients, from the next connection on."""
        lines = (f"{recipient} {reply}\n" for recipient, reply in replies.items())
        new = self.folder / "recipients.new"
        new.write_text("".join(lines))
        os.utime(new, (0, 0))  # of a table that is new it is wary, and waits two seconds
        new.replace(self.folder / "recipients")

    def mails(self) -> list[tuple[str, EmailMessage]]:
        """What was delivered: to whom (by the envelope), and the message."""
        found = []
        for file in sorted((self.folder / "mail" / "new").glob("*")):
            message = message_from_bytes(file.read_bytes(), policy=policy.default)
            assert isinstance(message, EmailMessage)
            found.append((str(message["Delivered-To"]), message))
        return found

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def _furnish(self) -> None:
        owner, reader = pwd.getpwnam(_OWNER), pwd.getpwnam(_READER)
        self.folder.chmod(0o755)
        for name in _QUEUE:
            place = self.folder / "queue" / name
            place.mkdir(parents=True)
            if name != "pid":
                os.chown(place, owner.pw_uid, owner.pw_gid)
        for place in (self.folder / "queue" / "maildrop", self.folder / "queue" / "public"):
            shutil.chown(place, group=_GROUP)
            place.chmod(0o730 if place.name == "maildrop" else 0o710)
        for name, account in (("data", owner), ("mail", reader)):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, account.pw_uid, account.pw_gid)
        self.refuse({})
        chain = self.folder / "chain.pem"
        chain.touch(0o600)
        self._certificate.private_key_and_cert_chain_pem.write_to_path(str(chain))
        facts = {"root": self._root, "folder": self.folder, "libraries": self._libraries}
        names = {"owner": _OWNER, "group": _GROUP, "held": HELD, "size": SIZE, "room": ROOM}
        ids = {"uid": reader.pw_uid, "gid": reader.pw_gid}
        (self.folder / "main.cf").write_text(_MAIN.format(**facts, **names, **ids))
        (self.folder / "master.cf").write_text(_MASTER.format(host=HOST, port=self.port))

    @property
    def _libraries(self) -> str:
        return _libraries(self._root)

    def _start(self) -> None:
        master = self._root / "usr/lib/postfix/sbin/master"
        with (self.folder / "errors").open("w") as errors:
            self._process = subprocess.Popen(
                [*dies_with_parent(), master, "-c", self.folder, "-d"],
                env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": self._libraries},
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        wait_until(self._is_up, what="Postfix answers")

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"ended at once: {(self.folder / 'errors').read_text()}")
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


class AcceptingPostfix(Postfix):
    """It takes all mail for ``HELD`` in clear text, and delivers none: to measure how fast."""

    def __init__(self) -> None:
        super().__init__(trustme.CA().issue_cert("mx.example.net"))

    @property
    def url(self) -> str:
        return f"smtp://{HOST}:{self.port}"

    @property
    def queued(self) -> int:
        """How many messages it keeps."""
        return sum(1 for _ in (self.folder / "queue" / "hold").glob("*"))

    def _furnish(self) -> None:
        super()._furnish()
        with (self.folder / "main.cf").open("a") as settings:
            settings.write(_ACCEPTING)
        master = self.folder / "master.cf"
        master.write_text(master.read_text().replace(" -o max_use=1", ""))
