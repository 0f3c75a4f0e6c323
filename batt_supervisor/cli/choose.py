"""Which of a run's items are taken: the first so many, or so many at random, in the order they have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, TypeVar

from batt_supervisor.errors import BadInput

Json = Any
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Choice:
    """How many items, or groups of items, are taken.

    Attributes:
        count: So many, all if there are fewer.
        seed: The same seed takes the same ones; None takes the first ones.
    """

    count: int
    seed: int | None = None

    def of(self, things: Iterable[_T], label: str) -> Iterable[_T]:
        """The things that are taken, in their order; a stream is read once and never held whole.

        Args:
            label: What is chosen from. Different things are drawn independently with one seed.
        """
        if self.seed is None:
            return islice(things, self.count)
        # Reservoir sampling (algorithm R): every thing is as likely to stay, however many there are.
        draw = Random(f"{self.seed}/{label}")
        kept: list[tuple[int, _T]] = []
        for place, thing in enumerate(things):
            if len(kept) < self.count:
                kept.append((place, thing))
            elif (slot := draw.randrange(place + 1)) < self.count:
                kept[slot] = (place, thing)
        return [thing for _, thing in sorted(kept, key=lambda pair: pair[0])]


class Chooser:
    """Applies a choice to the stages of a run; groups are chosen once and hold for all stages that have them."""

    def __init__(self, choice: Choice | None) -> None:
        self._choice = choice
        self._groups: dict[str, frozenset[str]] = {}

    def take(self, stage: str, items: Callable[[], Iterator[Json]], group_by: str | None) -> Iterator[Json]:
        """The items of a stage that are taken.

        Args:
            items: Gives the stage's items from their beginning; called twice where groups must be chosen first.
            group_by: The field whose values are counted instead of the items.

        Raises:
            BadInput: An item has no such field.
        """
        if self._choice is None:
            yield from items()
        elif group_by is None:
            yield from self._choice.of(items(), stage)
        else:
            if group_by not in self._groups:
                values = _distinct(_group(item, group_by, stage) for item in items())
                self._groups[group_by] = frozenset(self._choice.of(values, group_by))
            for item in items():
                if _group(item, group_by, stage) in self._groups[group_by]:
                    yield item


def _group(item: Json, field: str, stage: str) -> str:
    if not isinstance(item, dict) or field not in item:
        raise BadInput(f"stage {stage!r}: the item {json.dumps(item)[:80]} has no field {field!r} to group by")
    return json.dumps(item[field], sort_keys=True)


def _distinct(values: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for value in values:
        if value not in seen:
            seen.add(value)
            yield value
