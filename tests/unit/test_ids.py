"""Identities: nobody else's, in the order of time, and made in one place."""

from __future__ import annotations

import ctypes
import os
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from uuid import RFC_4122

import pytest
from bson import ObjectId

from mailqueue.store import ids
from tests.for_each import for_each

CHILDREN, THREADS, EACH = 4, 4, 200


def test_a_child_is_another_process_even_where_no_hook_of_python_runs() -> None:
    """uWSGI forks in C."""
    before = ids.process()
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        os._exit(ids.process() == before)
    assert os.waitpid(child, 0)[1] == 0


def test_an_id_tells_the_second_it_was_made_in() -> None:
    made = datetime.fromtimestamp(int.from_bytes(ids.new().binary[:4], "big"), UTC)
    assert abs(made - datetime.now(UTC)) < timedelta(minutes=1)
    assert ObjectId(str(ids.new())).generation_time.tzinfo is not None


def test_what_is_newer_sorts_later() -> None:
    made = [ids.new() for _ in range(1000)]
    moments = [one.binary[:7] for one in made]
    assert moments == sorted(moments)
    assert all(one < other for one, other in pairwise(made) if one.binary[:7] < other.binary[:7])


def test_several_are_of_one_moment_and_all_different() -> None:
    made = ids.several(1000)
    assert len({one.binary[:7] for one in made}) == 1
    assert len(set(made)) == 1000


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_of_forked_children_never_make_the_same_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All at one moment, as the threads of a pre-forked web server do at its first requests."""
    monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=lambda: 10**18))
    ids.new()
    read, write = os.pipe()
    children = []
    for _ in range(CHILDREN):
        if (pid := os.fork()) == 0:
            try:
                os.write(write, b"".join(_made_at_once()))
            finally:
                os._exit(0)
        children.append(pid)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        made = pipe.read()
    for pid in children:
        os.waitpid(pid, 0)
    each = [made[at : at + 12] for at in range(0, len(made), 12)]
    assert len(each) == len(set(each)) == CHILDREN * THREADS * EACH


def _made_at_once() -> list[bytes]:
    made: list[bytes] = []
    begin = threading.Barrier(THREADS)

    def make() -> None:
        begin.wait(10)
        made.extend([ids.new().binary for _ in range(EACH)])

    threads = [threading.Thread(target=make) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


# The two forms


def test_an_id_can_be_read_in_its_uuid_and_the_uuid_says_its_version() -> None:
    uuid = ids.to_uuid("65f1c0ffee6512345678abcd")
    assert str(uuid) == "65f1c0ff-ee65-8000-8000-12345678abcd"
    assert (uuid.version, uuid.variant) == (8, RFC_4122)
    assert ids.to_uuid(str(uuid)) == uuid


def test_every_id_comes_back_from_both_forms_and_uuids_sort_as_ids_do() -> None:
    made = ids.several(1000)
    assert [ids.parse(str(one)) for one in made] == made
    assert [ids.parse(str(ids.to_uuid(one)).upper()) for one in made] == made
    assert sorted(made) == sorted(made, key=ids.to_uuid)


@for_each(
    "text",
    [
        *("", "4711", "x" * 24, "65f1c0ffee65f1c0ffee65f1\n", " 65f1c0ffee65f1c0ffee65f1"),
        *("65f1c0ffee65800080001234567890ab", "65f1c0ff-ee65-4000-8000-12345678abcd"),
        *("65f1c0ff-ee65-8001-8000-12345678abcd", "65f1c0ff-ee65-8000-9000-12345678abcd"),
        *("{65f1c0ff-ee65-8000-8000-12345678abcd}", "\uff11" * 24),
        "9b2ab6bc-5e1b-4f8e-9d6a-0123456789ab",
    ],
)
def test_what_is_neither_form_is_refused(text: str) -> None:
    for reader in (ids.parse, ids.to_uuid):
        with pytest.raises(ValueError, match="24 hexadecimal characters, or is a UUID"):
            reader(text)
