"""What was learned of kinds of tasks, on disk."""

from typing import Any

from batt_supervisor.core.needs import KINDS_MAX, Learned


def saved(desk: Any, *learned: Learned) -> None:
    desk.do(lambda tx: tx.save_kinds(learned))


def test_what_was_learned_is_read_as_it_was_written(desk: Any) -> None:
    assert desk.reader.kinds() == []
    learned = [Learned("zoo:work", 70, (2**40, 5, 0), (None, 7)), Learned("'ä€ \\", 1)]
    saved(desk, *learned)
    assert sorted(desk.reader.kinds(), key=lambda one: one.attempts, reverse=True) == learned


def test_a_kind_is_written_over_and_comes_last(desk: Any) -> None:
    saved(desk, Learned("a", 1, (1,)), Learned("b", 1, (1,)))
    desk.now_ms += 1
    saved(desk, Learned("a", 2, (1, 2)))
    assert desk.reader.kinds() == [Learned("b", 1, (1,)), Learned("a", 2, (1, 2))]
    saved(desk)
    assert len(desk.reader.kinds()) == 2


def test_those_that_were_not_updated_for_longest_go(desk: Any) -> None:
    saved(desk, *(Learned(f"old{number}", 1) for number in range(3)))
    desk.now_ms += 1
    saved(desk, *(Learned(f"new{number}", 1) for number in range(KINDS_MAX - 1)))
    found = desk.reader.kinds()
    assert len(found) == KINDS_MAX
    assert [one.kind for one in found if one.kind.startswith("old")] == ["old0"]
