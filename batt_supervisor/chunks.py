"""A submission's tasks as bodies of requests, the next one made while battd still has the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Self

from batt_supervisor.errors import BadInput
from batt_supervisor.wire import TaskSpec, dumps

CHUNK_TASKS: Final = 2_500
"""Most tasks of one body, half of what battd takes: with more, others wait longer for battd, and little is gained."""

CHUNK_BYTES: Final = 1024 * 1024
"""Most bytes of one body, unless a single task is larger."""


class Chunks:
    """Bodies of requests that add tasks to a run, in order; `tasks` is read as far as they are made.

    Each names the place of its first task in the run, so that it may be sent twice. Nobody has to wait for the next
    one while battd writes the last: `prepare` makes it before it is asked for.

    Attributes:
        tasks: How many are in the bodies made so far.

    Raises:
        BadInput: When a body is asked for, and the arguments of one of its tasks are not JSON. Whatever `tasks` raises
            comes as it is.
    """

    def __init__(self, tasks: Iterable[TaskSpec]) -> None:
        self.tasks = 0
        self._bodies = self._made(tasks)
        self._prepared = False
        self._next: bytes | None = None
        self._error: Exception | None = None

    def prepare(self) -> None:
        """Make the next body, if there is one and it is not made yet. An error is kept until that is asked for."""
        if self._prepared:
            return
        try:
            self._next = next(self._bodies, None)
        except Exception as error:
            self._error = error
        self._prepared = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        self.prepare()
        self._prepared = False
        if self._error is not None:
            raise self._error
        if self._next is None:
            raise StopIteration
        return self._next

    def _made(self, tasks: Iterable[TaskSpec]) -> Iterator[bytes]:
        """Limited by count and by bytes."""
        size = 0
        rows: list[str] = []
        for number, task in enumerate(tasks):
            row = _row(number, task)
            if rows and (len(rows) == CHUNK_TASKS or size + len(row) > CHUNK_BYTES):
                yield self._body(rows)
                rows, size = [], 0
            rows.append(row)
            size += len(row) + 1
        if rows:
            yield self._body(rows)

    def _body(self, rows: list[str]) -> bytes:
        offset = self.tasks
        self.tasks += len(rows)
        return f'{{"offset":{offset},"tasks":[{",".join(rows)}]}}'.encode()


def _row(number: int, task: TaskSpec) -> str:
    try:
        args = dumps(task.args)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the arguments of task {number} are not JSON: {error}") from error
    key = f',"key":{dumps(task.key)}' if task.key is not None else ""
    return f'{{"stage":{task.stage},"args":{args}{key}}}'
