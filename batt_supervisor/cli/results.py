"""battctl results: what a run's tasks gave."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from batt_supervisor.cli.exits import OF_RUN, Exit
from batt_supervisor.cli.options import (
    ConfigOption,
    JsonOption,
    SocketOption,
    StateDirOption,
    caller,
    reference,
)
from batt_supervisor.cli.output import NONE, Table, compact, note, plain_json, say, shown
from batt_supervisor.cli.place import Flags
from batt_supervisor.cli.wait import ABSENCE_LONGEST_S, settled
from batt_supervisor.core.lifecycle import SETTLED, State
from batt_supervisor.errors import BadInput, Unreachable
from batt_supervisor.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from batt_supervisor.client import Client
    from batt_supervisor.wire import TaskResult

FOLLOW_PAGE = 200
"""The last page is read again at every look, so it is kept short."""


def add_to(app: typer.Typer) -> None:
    app.command()(results)


def results(
    ctx: typer.Context,
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="r7, 7 or the run's name.")],
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line and task.")] = False,
    state: Annotated[State | None, typer.Option(help="Only tasks in this state.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print tasks as they settle, until the end.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial/--settled", help="With tasks that have not ended, or without them.")
    ] = True,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Print what a run's tasks gave.

    In order of submission, or as they settle with --follow.

    With --jsonl each line has: id, run, stage, index, key, args, state, outcome, reason, attempt, wall_s, cpu_s,
    peak_memory_bytes, value, error. With --json the same objects come as one array.

    \b
    Examples:
      battctl results r7
      battctl results r7 --jsonl > results.jsonl
      battctl results r7 --jsonl --state failed | jq -c '[.args, .outcome, .reason]'
      battctl results arc --follow
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    if follow and state is not None and state not in SETTLED:
        raise BadInput(f"--follow prints tasks as they settle; none settles as {state.value!r}")
    printer: _Printer = _Lines() if jsonl else _Array() if me.json else _Rows()
    with me.client() as client:
        found: Iterator[TaskResult]
        if follow:
            found = as_they_settle(client, reference(run), state)
        else:
            found = client.all_results(reference(run), state=state)
        batch: list[TaskResult] = []
        for result in found:
            if follow:
                printer.print([result])
                sys.stdout.flush()
            elif partial or result.state in SETTLED:
                batch.append(result)
                if len(batch) == 500:
                    printer.print(batch)
                    batch = []
        printer.print(batch)
    printer.end()
    return Exit.OK


def as_they_settle(
    client: Client,
    run: str,
    state: State | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[TaskResult]:
    """Results in the order in which their tasks settle, until the run has ended; a battd that restarts is waited for.

    A page that is not full has no next one yet, so it is read again, and what it had before is left out.
    """
    info = client.run(run)
    after: int | None = None
    given: set[tuple[str, int]] = set()
    away_since: float | None = None
    while True:
        try:
            ended = info.state in OF_RUN  # known before the page is read: nothing settles after it
            page = client.results(info.run, order="settled", after=after, limit=FOLLOW_PAGE, state=state)
            for result in page.items:
                if (result.id, result.attempt) not in given:
                    yield result
            given = {(result.id, result.attempt) for result in page.items}
            away_since = None
            if page.next is not None:
                after, given = page.next, set()
                continue
            if ended:
                return
            sleep(0.1)  # or a fast run would have every one of its tasks asked for alone
            info = client.run(info.run, wait_s=25, since=settled(info))
        except Unreachable as error:
            if away_since is None:
                away_since = clock()
                note(f"battctl: {error}; trying again for {format_duration(ABSENCE_LONGEST_S)}")
            if clock() - away_since > ABSENCE_LONGEST_S:
                raise
            sleep(0.5)


class _Printer(Protocol):
    def print(self, found: list[TaskResult]) -> None: ...

    def end(self) -> None: ...


class _Lines:
    """JSON lines."""

    def print(self, found: list[TaskResult]) -> None:
        for result in found:
            say(compact(plain_json(result)))

    def end(self) -> None:
        pass


class _Array:
    """One JSON array, written as it comes."""

    def __init__(self) -> None:
        self._between = "["

    def print(self, found: list[TaskResult]) -> None:
        for result in found:
            say(f"{self._between}{compact(plain_json(result))}")
            self._between = ","

    def end(self) -> None:
        say("[]" if self._between == "[" else "]")


class _Rows:
    """A table."""

    def __init__(self) -> None:
        heads = ("TASK", "INDEX", "STAGE", "STATE", "OUTCOME", "TRY", "WALL", "CPU", "PEAK", "ARGS", "RESULT")
        right = ("INDEX", "TRY", "WALL", "CPU", "PEAK")
        self._table = Table(*heads, right=right, spare=("CPU", "PEAK", "STAGE", "INDEX", "TRY", "ARGS"))

    def print(self, found: list[TaskResult]) -> None:
        self._table.print([_row(result) for result in found])

    def end(self) -> None:
        pass


def _row(result: TaskResult) -> tuple[object, ...]:
    return (
        result.id,
        result.index,
        result.stage,
        result.state,
        result.outcome,
        result.attempt,
        NONE if result.wall_s is None else format_duration(result.wall_s),
        NONE if result.cpu_s is None else format_duration(result.cpu_s),
        NONE if result.peak_memory_bytes is None else format_size(result.peak_memory_bytes),
        _short(shown(result.args), 60),
        said(result),
    )


def said(result: TaskResult) -> str:
    """A task's value, or why it has none."""
    if result.state is State.SUCCEEDED:
        return shown(result.value)
    if result.error is not None:
        return f"{result.error.type}: {result.error.message}"
    return result.reason or NONE


def _short(text: str, width: int) -> str:
    """Cut on a terminal only."""
    return text if len(text) <= width or not sys.stdout.isatty() else text[: width - 1] + "…"
