"""How many bytes of e-mails a process holds at a time."""

from __future__ import annotations

from mailqueue.consumer.memory import COPIES, Memory

MIB = 2**20


def test_small_ones_are_read_together_up_to_their_share() -> None:
    memory = Memory(256 * MIB)
    assert memory.share(16) == 256 * MIB // 16 // COPIES
    held = [memory.hold_small(MIB) for _ in range(16)]
    assert memory.share(16) == (256 - 16 * COPIES) * MIB // 16 // COPIES
    held.clear()
    assert memory.share(16) == 256 * MIB // 16 // COPIES


def test_of_large_ones_as_many_are_read_as_there_is_room_for() -> None:
    memory = Memory(256 * MIB)
    first, second = memory.hold_large(14 * MIB), memory.hold_large(14 * MIB)
    assert first is not None
    assert second is not None
    assert memory.hold_large(14 * MIB) is None
    del first
    assert memory.hold_large(14 * MIB)


def test_one_always_may_go_however_large_it_is_and_however_many_small_ones_there_are() -> None:
    memory = Memory(MIB)
    small = [memory.hold_small(MIB) for _ in range(3)]
    large = memory.hold_large(15 * MIB)
    assert large is not None
    assert memory.hold_large(1) is None
    small.clear()
    assert memory.hold_large(15 * MIB) is None
    del large
    assert memory.hold_large(15 * MIB)


def test_large_ones_leave_room_for_the_small() -> None:
    memory = Memory(256 * MIB)
    large = [memory.hold_large(15 * MIB) for _ in range(3)]
    assert [each is None for each in large] == [False, False, True]
    assert memory.share(16) >= 100 * 1024
    alone = Memory(MIB)
    held = alone.hold_large(15 * MIB)
    assert held is not None
    assert alone.share(16) == MIB // 8 // 16 // COPIES


def test_what_is_held_for_too_much_leaves_nothing_rather_than_less() -> None:
    memory = Memory(MIB)
    held = memory.hold_small(MIB)
    assert held is not None
    assert memory.share(0) == 0
