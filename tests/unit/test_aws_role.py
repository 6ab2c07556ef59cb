"""When lent credentials are fetched, kept and renewed; by whom; and what a failure means."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from mailqueue.record import Outcome, SendResult
from mailqueue.vendors.aws import Credentials, given
from mailqueue.vendors.aws_endpoints import Lent, NoCredentials
from mailqueue.vendors.aws_role import AFTER_FAILURE, EARLY, PAUSE, Role

LIFE = 3600.0
UNAVAILABLE = NoCredentials(Outcome.UNAVAILABLE, "no answer")


class Endpoint:
    """Lends a new set at each call, for ``life`` seconds; or raises what is in ``failure``."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.life = LIFE
        self.calls = 0
        self.failure: NoCredentials | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def __call__(self, _: Mapping[str, str], deadline: float) -> Lent:
        self.calls += 1
        self.asked.set()
        assert self.gate.wait(10)
        assert deadline <= time.monotonic() + 5
        if self.failure:
            raise self.failure
        return Lent(Credentials(f"id-{self.calls}", "secret", "token"), self.now + self.life)


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def role(endpoint: Endpoint) -> Role:
    return Role({}, endpoint, lambda: endpoint.now)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def key(role: Role) -> str:
    found = role.current(time.monotonic() + 60)
    return found.access_key_id if isinstance(found, Credentials) else found.outcome


def test_credentials_are_fetched_once_and_renewed_before_they_end(
    role: Role, endpoint: Endpoint
) -> None:
    start = endpoint.now
    assert [key(role), key(role)] == ["id-1", "id-1"]
    endpoint.now = start + LIFE - EARLY - 1
    assert key(role) == "id-1"
    endpoint.now = start + LIFE - EARLY
    assert [key(role), key(role)] == ["id-2", "id-2"]


def test_what_cannot_be_renewed_is_used_until_it_ends_and_asked_for_now_and_then(
    role: Role, endpoint: Endpoint
) -> None:
    start = endpoint.now
    key(role)
    endpoint.failure = UNAVAILABLE
    endpoint.now = start + LIFE - EARLY
    assert [key(role), key(role)] == ["id-1", "id-1"]
    assert endpoint.calls == 2
    endpoint.now += PAUSE
    assert key(role) == "id-1"
    assert endpoint.calls == 3
    endpoint.now = start + LIFE
    assert key(role) == Outcome.UNAVAILABLE


def test_a_set_that_is_lent_for_a_short_time_is_not_asked_for_without_pause(
    role: Role, endpoint: Endpoint
) -> None:
    start, endpoint.life = endpoint.now, 90.0
    assert key(role) == "id-1"
    endpoint.now = start + PAUSE - 1
    assert key(role) == "id-1"
    endpoint.now = start + PAUSE
    assert key(role) == "id-2"


def test_a_set_that_has_expired_already_is_none(role: Role, endpoint: Endpoint) -> None:
    late = Role({}, endpoint, lambda: endpoint.now + LIFE)
    assert key(late) == Outcome.UNAVAILABLE


def test_a_failure_is_a_result_told_to_all_who_ask_within_seconds(
    role: Role, endpoint: Endpoint
) -> None:
    endpoint.failure = NoCredentials(Outcome.MISCONFIGURED, "the machine has no role")
    expected = SendResult(
        outcome=Outcome.MISCONFIGURED,
        code="credentials",
        detail="the machine has no role",
        answered=False,
    )
    assert [role.current(time.monotonic() + 60) for _ in range(3)] == [expected] * 3
    assert endpoint.calls == 1
    endpoint.failure = None
    endpoint.now += AFTER_FAILURE
    assert key(role) == "id-2"


def test_of_many_threads_without_credentials_one_asks_and_all_are_served(
    role: Role, endpoint: Endpoint, pool: ThreadPoolExecutor
) -> None:
    endpoint.gate.clear()
    found = [pool.submit(key, role) for _ in range(8)]
    assert endpoint.asked.wait(10)
    endpoint.gate.set()
    assert {each.result(10) for each in found} == {"id-1"}
    assert endpoint.calls == 1


def test_while_one_thread_renews_the_others_go_on_with_what_still_holds(
    role: Role, endpoint: Endpoint, pool: ThreadPoolExecutor
) -> None:
    key(role)
    endpoint.now += LIFE - EARLY
    endpoint.gate.clear()
    endpoint.asked.clear()
    renewing = pool.submit(key, role)
    assert endpoint.asked.wait(10)
    assert key(role) == "id-1"
    endpoint.gate.set()
    assert renewing.result(10) == "id-2"


def test_who_has_no_time_left_to_wait_for_the_one_who_asks_is_told_so(
    role: Role, endpoint: Endpoint, pool: ThreadPoolExecutor
) -> None:
    endpoint.gate.clear()
    asking = pool.submit(key, role)
    assert endpoint.asked.wait(10)
    late = role.current(time.monotonic())
    assert isinstance(late, SendResult)
    assert (late.outcome, late.code) == (Outcome.UNAVAILABLE, "credentials")
    endpoint.gate.set()
    assert asking.result(10) == "id-1"


def test_a_forked_child_begins_anew(role: Role, endpoint: Endpoint) -> None:
    key(role)
    role.forget()
    assert key(role) == "id-2"


KEYS = {"access_key_id": "A", "secret_access_key": "B", "session_token": None}
ENVIRON = {
    "AWS_ACCESS_KEY_ID": "C",
    "AWS_SECRET_ACCESS_KEY": "D",
    "AWS_SESSION_TOKEN": "E",
}


def test_the_keys_of_the_config_come_before_those_of_the_environment() -> None:
    assert given(KEYS, ENVIRON) == Credentials("A", "B", None)
    assert given(dict.fromkeys(KEYS), ENVIRON) == Credentials("C", "D", "E")
    assert given({}, {"AWS_ACCESS_KEY_ID": "C"}) is None
    assert given({}, {}) is None
