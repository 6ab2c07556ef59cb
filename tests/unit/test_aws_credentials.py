"""When botocore is asked for credentials, by whom, who waits for it; and what a failure means."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.vendors.aws.credentials import (
    CHECK_SECONDS,
    FAILURE_SECONDS,
    Chain,
    static_credentials,
)
from mailqueue.vendors.aws.signing import Credentials
from tests.waiting import wait_until

LIFE = 3600.0


class Frozen(NamedTuple):
    """What botocore gives to sign with."""

    access_key: str
    secret_key: str
    token: str | None


class Source:
    """In botocore's place: lends a new set when the present one has ended, or raises ``failure``.

    While ``gate`` is cleared it does not answer; ``asked`` is set when it is asked.
    """

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.life = LIFE
        self.calls = self.sets = 0
        self.ends_at = 0.0
        self.failure: Exception | None = None
        self.gate, self.asked = threading.Event(), threading.Event()
        self.gate.set()

    def find(self) -> Any:
        return self

    def get_frozen_credentials(self) -> Frozen:
        self.calls += 1
        self.asked.set()
        assert self.gate.wait(10)
        if self.failure:
            raise self.failure
        if self.refresh_needed(0):
            self.sets += 1
            self.ends_at = self.now + self.life
        return Frozen(f"id-{self.sets}", "secret", "token")

    def refresh_needed(self, refresh_in: float) -> bool:
        return self.ends_at - self.now <= refresh_in


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def chain(source: Source) -> Chain:
    return Chain(source.find, lambda: source.now)


@pytest.fixture
def pool(source: Source) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made
        source.gate.set()


def key(chain: Chain, seconds: float = 60.0) -> str:
    answer = chain.current(time.monotonic() + seconds)
    return answer.access_key_id if isinstance(answer, Credentials) else answer.outcome


def test_botocore_is_asked_once_a_minute_for_what_holds(chain: Chain, source: Source) -> None:
    assert [key(chain), key(chain)] == ["id-1", "id-1"]
    source.now += CHECK_SECONDS - 1
    assert key(chain) == "id-1"
    assert source.calls == 1
    source.now += 1
    assert key(chain) == "id-1"
    wait_until(lambda: source.calls == 2)


def test_after_a_long_silence_the_caller_waits_for_what_holds_now(
    chain: Chain, source: Source
) -> None:
    key(chain)
    source.now += LIFE
    assert key(chain) == "id-2"


def test_what_is_lent_for_a_minute_is_looked_at_before_it_is_used_again(
    chain: Chain, source: Source
) -> None:
    source.life = CHECK_SECONDS
    assert [key(chain), key(chain)] == ["id-1", "id-1"]
    assert source.calls == 1
    source.now += FAILURE_SECONDS
    source.ends_at = source.now
    assert key(chain) == "id-2"


def test_keys_without_an_end_are_used_for_ever(source: Source) -> None:
    class Profile:
        def get_frozen_credentials(self) -> Frozen:
            return Frozen("profile", "secret", None)

    chain = Chain(Profile, lambda: source.now)
    for _ in range(3):
        assert chain.current(time.monotonic() + 60) == Credentials("profile", "secret", None)
        source.now += LIFE


def test_a_failure_is_the_answer_to_all_who_ask_within_seconds(
    chain: Chain, source: Source
) -> None:
    source.failure = OSError("/private/token is missing")
    expected = SendResult(
        outcome=Outcome.MISCONFIGURED, code="credentials", detail="OSError", answered=False
    )
    assert [chain.current(time.monotonic() + 60) for _ in range(3)] == [expected] * 3
    assert source.calls == 1
    source.failure = None
    source.now += FAILURE_SECONDS
    assert key(chain) == "id-1"


def test_what_cannot_be_renewed_is_used_until_shortly_before_its_end(
    chain: Chain, source: Source
) -> None:
    key(chain)
    source.failure = OSError()
    source.now += LIFE - 3 * CHECK_SECONDS
    assert [key(chain), key(chain)] == ["id-1", "id-1"]
    assert source.calls == 2
    source.now = source.ends_at
    assert key(chain) == Outcome.MISCONFIGURED


def test_where_there_are_none_the_next_look_finds_what_has_come_meanwhile(source: Source) -> None:
    sources: list[Source | None] = [None, source]
    chain = Chain(lambda: sources.pop(0), lambda: source.now)
    assert key(chain) == Outcome.MISCONFIGURED
    source.now += FAILURE_SECONDS
    assert key(chain) == "id-1"


def test_of_many_threads_without_credentials_one_asks_and_all_are_served(
    chain: Chain, source: Source, pool: ThreadPoolExecutor
) -> None:
    source.gate.clear()
    keys = [pool.submit(key, chain) for _ in range(8)]
    assert source.asked.wait(10)
    source.gate.set()
    assert {each.result(10) for each in keys} == {"id-1"}
    assert source.calls == 1


def test_while_one_thread_asks_the_others_go_on_with_what_holds(
    chain: Chain, source: Source
) -> None:
    key(chain)
    source.now += CHECK_SECONDS
    source.gate.clear()
    assert [key(chain) for _ in range(3)] == ["id-1"] * 3
    source.gate.set()
    wait_until(lambda: source.calls == 2)


def test_nobody_waits_beyond_the_deadline_and_the_answer_is_there_for_the_next(
    chain: Chain, source: Source
) -> None:
    source.gate.clear()
    answer = chain.current(time.monotonic())
    assert isinstance(answer, SendResult)
    assert (answer.outcome, answer.code) == (Outcome.UNAVAILABLE, "credentials")
    source.gate.set()
    assert key(chain) == "id-1"
    assert source.calls == 1


KEYS = {"access_key_id": "A", "secret_access_key": "B", "session_token": None}
ENVIRON = {
    "AWS_ACCESS_KEY_ID": "C",
    "AWS_SECRET_ACCESS_KEY": "D",
    "AWS_SESSION_TOKEN": "E",
}


def test_the_keys_of_the_config_come_before_those_of_the_environment() -> None:
    assert static_credentials(KEYS, ENVIRON) == Credentials("A", "B", None)
    assert static_credentials(dict.fromkeys(KEYS), ENVIRON) == Credentials("C", "D", "E")
    assert static_credentials({}, {"AWS_ACCESS_KEY_ID": "C"}) is None
    assert static_credentials({}, {}) is None
