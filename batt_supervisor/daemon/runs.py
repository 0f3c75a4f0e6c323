"""What the loop keeps in mind of each open run: little, and bounded, however long its queue is."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from batt_supervisor.core.lifecycle import OPEN, State
from batt_supervisor.core.model import Head
from batt_supervisor.core.plan import RunView
from batt_supervisor.store.read import Reader, RunRow, StageRow

WINDOW: Final = 64
"""Queued tasks of a run that are kept in memory, without their arguments."""


@dataclass(slots=True)
class OpenRun:
    """A sealed run that has not ended.

    Attributes:
        queue: Its first queued tasks.
        dirty: The store may have queued tasks that are not in `queue`.
        touched: The store has changed something of it since `settled_stages` looked.
        busy: An operation that closes or releases some of its tasks is on its way to the writer.
    """

    row: RunRow
    stages: list[StageRow]
    queue: deque[Head] = field(default_factory=deque)
    dirty: bool = True
    touched: bool = True
    busy: bool = False

    @property
    def view(self) -> RunView:
        return RunView(self.row.id, self.row.deadline_at_ms, self.row.closing)

    def refill(self, reader: Reader, taken: Container[int]) -> None:
        """Read the front of the queue again, if it has run empty; `taken` are tasks being claimed just now."""
        if self.queue or not self.dirty or self.row.closing:
            return
        heads = reader.heads(self.row.id, WINDOW)
        self.dirty = len(heads) == WINDOW
        self.queue.extend(head for head in heads if head.task_id not in taken)

    def stages_due(self, reader: Reader) -> list[int]:
        """Stages with waiting tasks whose turn has come."""
        open_counts: dict[int, int] = {}
        waiting: set[int] = set()
        for tally in reader.tallies(self.row.id):
            if tally.state in OPEN:
                open_counts[tally.stage] = open_counts.get(tally.stage, 0) + tally.count
            if tally.state is State.WAITING:
                waiting.add(tally.stage)
        return [
            stage.number
            for stage in self.stages
            if stage.number in waiting and not any(open_counts.get(number) for number in stage.after)
        ]
