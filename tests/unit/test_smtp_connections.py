"""Which connection stays when there are too many, and how much memory their messages have."""

from __future__ import annotations

import asyncio

from mailqueue.smtp.connections import LARGE, PATIENCE, Connections, Memory


class Clock:
    """Time as the test has it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A connection that writes down what happens to it."""

    def __init__(self, *, is_waiting: bool = True) -> None:
        self.is_waiting = is_waiting
        self.ends: list[str] = []

    def abort(self) -> None:
        self.ends.append("abort")

    def finish(self) -> None:
        self.ends.append("finish")


def full(clock: Clock, *clients: Client) -> Connections:
    connections = Connections(len(clients), clock)
    for client in clients:
        assert connections.admit()
        connections.add(client)
        clock.now += 0.1
    return connections


def test_a_newcomer_takes_the_place_of_whoever_was_silent_for_longest() -> None:
    clock, first, second = Clock(), Client(), Client()
    connections = full(clock, first, second)
    clock.now += PATIENCE
    connections.hear(first)
    assert connections.admit()
    assert (first.ends, second.ends, len(connections)) == ([], ["abort"], 1)


def test_a_newcomer_is_turned_away_while_all_have_just_spoken() -> None:
    clock, first, second = Clock(), Client(), Client()
    connections = full(clock, first, second)
    assert not connections.admit()
    assert first.ends == second.ends == []


def test_a_client_that_waits_for_our_reply_keeps_its_place() -> None:
    clock, storing, idle = Clock(), Client(is_waiting=False), Client()
    connections = full(clock, storing, idle)
    clock.now += 10 * PATIENCE
    assert connections.admit()
    assert (storing.ends, idle.ends) == ([], ["abort"])
    assert len(connections) == 1


def test_one_that_is_gone_does_not_come_back_when_its_last_words_are_heard() -> None:
    clock, client = Clock(), Client()
    connections = full(clock, client)
    connections.remove(client)
    connections.hear(client)
    assert len(connections) == 0


def test_a_message_waits_for_memory_and_is_put_off_when_there_is_none_in_time() -> None:
    async def scenario() -> list[bool]:
        memory = Memory(1000)
        first = [await memory.reserve(600, 0), await memory.reserve(401, 0.001)]
        waiting = asyncio.create_task(memory.reserve(1000, 60))
        await asyncio.sleep(0)
        memory.release(600)
        return [*first, await waiting, memory.try_reserve(1)]

    assert asyncio.run(scenario()) == [True, False, True, False]


def test_small_messages_find_memory_beside_large_ones() -> None:
    memory = Memory(8 * LARGE)
    assert memory.try_reserve(6 * LARGE)
    assert not memory.try_reserve(LARGE + 1)
    assert memory.try_reserve(LARGE)
    assert memory.try_reserve(LARGE)


def test_nobody_new_is_admitted_once_it_finishes_and_who_is_late_is_closed() -> None:
    async def scenario() -> None:
        clock, client = Clock(), Client()
        connections = full(clock, client)
        clock.now += 10 * PATIENCE
        await connections.finish(0.001)
        assert not connections.admit()
        assert client.ends == ["finish", "abort"]

    asyncio.run(scenario())


def test_it_has_finished_when_all_are_gone() -> None:
    async def scenario() -> None:
        clock, first, second = Clock(), Client(), Client()
        connections = full(clock, first, second)
        finishing = asyncio.create_task(connections.finish(60))
        await asyncio.sleep(0)
        for client in (first, second):
            connections.remove(client)
        await finishing
        assert first.ends == second.ends == ["finish"]

    asyncio.run(scenario())
