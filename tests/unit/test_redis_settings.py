"""The section ``queue`` of type ``redis``: which URLs it takes, and what it shows of them."""

from __future__ import annotations

import pytest
from bson import ObjectId

from mailqueue.config import Redis
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import BULK, HIGH, NORMAL, RETRY_BULK, RETRY_HIGH, RETRY_NORMAL
from mailqueue.queue.broker import Announcement
from mailqueue.queue.redis.scripts import NAMES, Tube
from tests.for_each import for_each

GOOD = {
    "redis://127.0.0.1": "127.0.0.1",
    "redis://localhost:6380/3": "localhost:6380/3",
    "redis://user:pass@redis.example.org:6379": "redis.example.org:6379",
    "redis://:p%40ss@[::1]:6379/0": "[::1]:6379/0",
    "rediss://:secret@redis.example.org/1?ssl_ca_certs=/etc/ca.pem": "redis.example.org/1",
    "unix:///run/redis/redis.sock?db=2": "/run/redis/redis.sock",
    "unix://:secret@/run/redis/redis.sock": "/run/redis/redis.sock",
}
BAD = [
    *("", "127.0.0.1:6379", "http://127.0.0.1", "redis://", "redis:///0", "redis://host:0"),
    *("redis://host:99999", "redis://host:x", "redis://host/one", "redis://host/1/2"),
    *("redis://host#part", "redis://host?db=1", "redis://host?ssl_cert_reqs=none", "redis://ho st"),
    *(
        "rediss://host?ssl_cert_reqs=none",
        "rediss://host?ssl_ca_certs",
        "redis://[::1",
        "unix://run",
    ),
    *("unix://host/run/x", "unix:///run/x?db=two", "unix:///run/x?socket_timeout=9"),
]


@for_each("url, server", GOOD.items())
def test_a_url_is_shown_without_its_password(url: str, server: str) -> None:
    settings = Redis(url=url)
    assert settings.server == server
    assert "secret" not in repr(settings)
    assert "pass@" not in repr(settings)


@for_each("url", BAD)
def test_a_url_that_redis_py_would_misread_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Redis(url=url)
    assert "url: must" in str(caught.value) or "url: may" in str(caught.value)
    assert not url or url not in str(caught.value)


@for_each("password", ["a/b", "a?b", "a#b"])
def test_a_password_that_ends_the_host_too_early_is_told_how_to_be_written(password: str) -> None:
    with pytest.raises(ConfigError, match="in a password, % / "):
        Redis(url=f"redis://:{password}@127.0.0.1:6379/0")


@for_each(
    "priority, name",
    [
        *((RETRY_HIGH, "high:retry"), (HIGH, "high"), (RETRY_NORMAL, "normal:retry")),
        *((NORMAL, "normal"), (RETRY_BULK, "bulk:retry"), (BULK, "bulk")),
        *((0, "high:retry"), (513, "high"), (2**32 - 1, "bulk")),
    ],
)
def test_a_priority_has_one_set(priority: int, name: str) -> None:
    command = Tube("t", 1).put([Announcement(ObjectId(), priority)])
    level = command[3 + int(command[2])]
    assert NAMES[int(level) - 1] == name


def test_all_keys_of_a_tube_have_one_hash_tag() -> None:
    command = Tube("mail", 1).depth()
    keys = [str(key) for key in command[3 : 3 + int(command[2])]]
    assert len(keys) == 9
    assert all(key.startswith("{mail}:") for key in keys)
