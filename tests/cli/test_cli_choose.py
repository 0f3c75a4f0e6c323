from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from batt_supervisor.cli.choose import Choice, Chooser
from batt_supervisor.errors import BadInput


def samples(tasks: int = 10, each: int = 3) -> Iterator[dict[str, Any]]:
    for sample in range(each):
        for task in range(tasks):
            yield {"task_id": f"k{task}", "sample": sample}


def numbers(count: int) -> Iterator[int]:
    return iter(range(count))


def test_all_are_taken_where_nothing_is_chosen() -> None:
    assert list(Chooser(None).take("s", lambda: numbers(5), None)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 3, 99])
def test_the_first_ones_are_taken_and_no_more_is_read(count: int) -> None:
    stream = numbers(10)
    assert list(Choice(count).of(stream, "s")) == list(range(min(count, 10)))
    assert list(stream) == list(range(count, 10))


def test_a_seed_repeats_the_choice_and_the_order_stays() -> None:
    first = list(Choice(5, seed=7).of(numbers(1000), "s"))
    assert first == sorted(first)
    assert len(set(first)) == 5
    assert first == list(Choice(5, seed=7).of(numbers(1000), "s"))
    assert first != list(Choice(5, seed=8).of(numbers(1000), "s"))
    assert first != list(Choice(5, seed=7).of(numbers(1000), "other"))


def test_all_are_taken_at_random_if_there_are_no_more() -> None:
    assert list(Choice(99, seed=1).of(numbers(4), "s")) == [0, 1, 2, 3]


def test_each_is_as_likely_as_another() -> None:
    counted = Counter(n for seed in range(2000) for n in Choice(2, seed).of(numbers(10), "s"))
    assert all(300 < counted[n] < 500 for n in range(10))


def test_groups_are_taken_whole() -> None:
    taken = list(Chooser(Choice(2)).take("s", samples, "task_id"))
    assert taken == [{"task_id": f"k{task}", "sample": sample} for sample in range(3) for task in range(2)]


def test_a_choice_of_groups_holds_for_later_stages() -> None:
    chooser = Chooser(Choice(3, seed=1))
    first = {item["task_id"] for item in chooser.take("a", samples, "task_id")}
    second = {item["task_id"] for item in chooser.take("b", lambda: samples(10, 1), "task_id")}
    assert len(first) == 3
    assert first == second


def test_stages_without_groups_are_chosen_from_apart() -> None:
    chooser = Chooser(Choice(2))
    assert list(chooser.take("a", lambda: numbers(9), None)) == [0, 1]
    assert list(chooser.take("b", lambda: numbers(9), None)) == [0, 1]


@pytest.mark.parametrize("item", [{"other": 1}, [1], "x"])
def test_an_item_without_the_field_is_refused(item: Any) -> None:
    with pytest.raises(BadInput, match=r"stage 's': .* has no field 'task_id'"):
        list(Chooser(Choice(1)).take("s", lambda: iter([item]), "task_id"))
