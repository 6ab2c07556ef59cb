"""The vendor of a measurement: nginx where it answers at once, a uvloop server where it takes time.

Both append ``WIDTH`` bytes to a file for each e-mail they read, so that counting costs the harness
a ``stat``. nginx does not tell when (its clock has milliseconds), the uvloop server does.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from mailqueue.devserver.process import HOST, Server

WIDTH = 8

NGINX = """
worker_processes 1;
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    log_format tick '1234567';
    access_log {done} tick;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {host}:{port} backlog=1024;
        location / {{
            default_type text/plain;
            add_header X-Message-Id at-the-vendor;
            return 202;
        }}
    }}
}}
"""


class HttpVendor(Server):
    """``url`` leads to it, ``done`` counts what it got."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__()
        self.delay = delay

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def done(self) -> Path:
        return Path(self._folder or "", "done")

    def _is_ready(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), 1).close()
        except OSError:
            return False
        return self.is_running


class Nginx(HttpVendor):
    """Answers 202 at once."""

    name = "nginx"

    def _options(self, folder: Path) -> Sequence[str]:
        text = NGINX.format(folder=folder, done=folder / "done", host=HOST, port=self.port)
        Path(folder, "nginx.conf").write_text(text)
        return ("-p", str(folder), "-c", str(folder / "nginx.conf"))


class Endpoint(HttpVendor):
    """Answers 202 after ``delay`` seconds, and notes when each e-mail came."""

    name = "python"

    def __init__(self, python: Path, delay: float = 0.0) -> None:
        super().__init__(delay)
        self._python = python

    def _binary(self) -> Path:
        return self._python

    def _options(self, folder: Path) -> Sequence[str]:
        script = Path(__file__).parent / "jobs" / "endpoint.py"
        return (str(script), str(self.port), str(self.delay), str(folder / "done"))


def has_nginx() -> bool:
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin") is not None
