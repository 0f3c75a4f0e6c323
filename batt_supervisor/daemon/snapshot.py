"""What the loop shows of itself to other threads, and through them to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from batt_supervisor.core.admission import Hold
from batt_supervisor.core.headroom import Others, Reading
from batt_supervisor.core.levels import Throttle
from batt_supervisor.core.model import NOTHING, Space
from batt_supervisor.core.world import Line
from batt_supervisor.daemon.attempt import Attempt
from batt_supervisor.daemon.gate import Change
from batt_supervisor.pool.protocol import SlotStatus

WELL: Final = "ok"
"""What is said of a store that works."""


def store_hold(trouble: str) -> Hold:
    """Why nothing starts while the store does not work."""
    return Hold("store", 1, f"store: {trouble}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The loop's view for people, replaced whole several times a second; any thread may read it.

    Attributes:
        tasks: The task that each slot is at.
        built: How many slots there is room for, the standby apart.
        promised: What attempts of ours have been promised and have not taken yet.
        promises: The same one by one.
        holds: The first hold of each run.
        lines: The hold of each line that is held.
        store: `ok`, or why it does not work.
        writing: Tasks of which nothing is left but to write their result to the disk.
    """

    slots: tuple[SlotStatus, ...]
    tasks: dict[int, int]
    reading: Reading
    others: Others
    throttle: Throttle
    promised: Space
    reserve: Space
    promises: tuple[Promise, ...] = ()
    holds: dict[int, Hold] = field(default_factory=dict)
    lines: dict[Line, Hold] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    changed: int = 0
    evictions: int = 0
    built: int = 0
    total: Space = NOTHING
    ledger: str = ""
    draining: bool = False
    store: str = WELL
    writing: frozenset[int] = frozenset()

    def held_by_store(self) -> Hold | None:
        """Why nothing starts, while the store does not work."""
        return None if self.store == WELL else store_hold(self.store)


@dataclass(frozen=True, slots=True)
class Promise:
    """What a running attempt needs, and what it was last seen to use."""

    task_id: int
    kind: str
    need: Space
    used: Space | None

    @classmethod
    def of(cls, attempt: Attempt) -> Promise:
        seen = attempt.sample
        used = None if seen is None else Space(seen.memory_bytes, seen.threads)
        return cls(attempt.head.task_id, attempt.work.kind, attempt.need, used)
