"""A task's history as columns of its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from batt_supervisor.core.model import Tries

COLUMNS: Final = "t.charged, t.resource, t.uncharged, t.starved, t.crashes, t.evicted, t.suspect"
"""Of `tasks t`."""


_NONE: Final = Tries()


def of_row(values: Sequence[Any]) -> Tries:
    """The history that `COLUMNS` have given."""
    if not any(values):
        return _NONE  # nearly every task, at the rate of the shortest ones
    charged, resource, uncharged, starved, crashes, evicted, suspect = values
    return Tries(charged, resource, uncharged, starved, crashes, evicted, bool(suspect))
