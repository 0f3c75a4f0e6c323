"""Which ended runs go, and why: by their age, by how many there are, by the space that everything takes.

Age counts time that battd has itself seen pass, so a wall clock that is set to next year removes nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from batt_supervisor.core.lifecycle import RunState

LOOK_S: Final = 300.0
"""Longest between two looks at what is old enough to go."""

LOOK_SHORTEST_S: Final = 0.25

Marks = Sequence[tuple[int, int]]
"""How long the event log was at which time: (ms that battd had seen pass, number of the last event), oldest first."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How much is kept; None is no limit.

    Attributes:
        succeeded_s: How long a run is kept after its end, where every task of it succeeded.
        cancelled_s: The same of one that was cancelled or cut by its deadline.
        runs: How many ended runs are kept.
        size_bytes: What database, results and logs may take together.
        events_s: How long events are kept.
        at_least_s: How long an ended run is kept whatever `runs` and `size_bytes` say, so that it can be read.
    """

    succeeded_s: float | None = None
    failed_s: float | None = None
    cancelled_s: float | None = None
    runs: int | None = None
    size_bytes: int | None = None
    events_s: float | None = None
    at_least_s: float = 0.0

    def kept_s(self, state: RunState) -> float | None:
        """How long a run that ended like that is kept."""
        match state:
            case RunState.SUCCEEDED:
                return self.succeeded_s
            case RunState.FAILED:
                return self.failed_s
            case RunState.CANCELLED | RunState.PARTIAL:
                return self.cancelled_s
            case _:
                return None

    @property
    def youngest_s(self) -> float | None:
        """No run below this age can be one that goes."""
        ages = [self.succeeded_s, self.failed_s, self.cancelled_s]
        if self.runs is not None or self.size_bytes is not None:
            ages.append(self.at_least_s)
        return min((age for age in ages if age is not None), default=None)

    @property
    def longest_s(self) -> float:
        """The greatest age that anything is looked at for."""
        ages = (self.succeeded_s, self.failed_s, self.cancelled_s, self.events_s, self.at_least_s)
        return max(age for age in ages if age is not None)

    @property
    def look_s(self) -> float:
        """How often it is worth a look: short enough that nothing stays an eighth longer than it should."""
        ages = [age for age in (self.youngest_s, self.events_s) if age is not None]
        return max(LOOK_SHORTEST_S, min(LOOK_S, *(age / 8 for age in ages))) if ages else LOOK_S


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended.

    Attributes:
        age_s: Since its end.
        size_bytes: What its removal would free, about.
    """

    state: RunState
    age_s: float
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Excess:
    """What there is beyond the limits: ended runs, and bytes. Negative or nought: there is none."""

    runs: int = 0
    size_bytes: int = 0

    def without(self, run: Ended) -> Excess:
        """What is left of it when this run is gone."""
        return replace(self, runs=self.runs - 1, size_bytes=self.size_bytes - run.size_bytes)


def why_goes(run: Ended, rules: Rules, excess: Excess) -> str | None:
    """Why a run is to go, in words; None: it stays. Runs are asked about in the order in which they ended."""
    kept_s = rules.kept_s(run.state)
    if kept_s is not None and run.age_s >= kept_s:
        return f"{run.state} runs are kept for {in_words(kept_s)}, it ended {in_words(run.age_s)} ago"
    if run.age_s < rules.at_least_s:
        return None
    if rules.runs is not None and excess.runs > 0:
        return f"{rules.runs} ended runs are kept, and there are {rules.runs + excess.runs}"
    if rules.size_bytes is not None and excess.size_bytes > 0:
        return f"{_size(rules.size_bytes)} are kept, and there are {_size(rules.size_bytes + excess.size_bytes)}"
    return None


def age_s(event_seq: int, lived_ms: int, marks: Marks) -> float:
    """How long ago an event was written, at least.

    Args:
        event_seq: Its number; 0 for one that is older than the log.
        lived_ms: What battd has seen pass up to now.
    """
    place = bisect_left(marks, event_seq, key=lambda mark: mark[1])
    return (lived_ms - marks[place][0]) / 1000 if place < len(marks) else 0.0


def written_before(older_s: float, lived_ms: int, marks: Marks) -> int:
    """The number of an event such that it, and all before it, are at least so old; 0 for none."""
    place = bisect_right(marks, lived_ms - older_s * 1000, key=lambda mark: mark[0])
    return marks[place - 1][1] if place else 0


def in_words(seconds: float) -> str:
    """`90 days`, `36 h`, `10 min`, `2.5 s`."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.3g} s"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
