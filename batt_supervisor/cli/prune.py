"""battctl prune: ended runs that go now, by name or by rule."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import (
    ConfigOption,
    JsonOption,
    SocketOption,
    StateDirOption,
    caller,
    duration,
    is_task,
    reference,
    size,
)
from batt_supervisor.cli.output import Table, document, moment, note, number_of, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.core.lifecycle import RunState
from batt_supervisor.errors import BadInput
from batt_supervisor.units import format_size

if TYPE_CHECKING:
    from batt_supervisor.client import Client
    from batt_supervisor.wire import Pruned, StoreSize

LOOK_S: Final = 0.5


class EndedAs(StrEnum):
    """States of ended runs that can be asked for."""

    SUCCEEDED = RunState.SUCCEEDED.value
    FAILED = RunState.FAILED.value
    CANCELLED = RunState.CANCELLED.value


def add_to(app: typer.Typer) -> None:
    app.command()(prune)


def prune(
    ctx: typer.Context,
    *,
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="r7 or a run's name.")] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Runs that ended so long ago: 7d, 12h, 0 for all.")
    ] = None,
    state: Annotated[
        EndedAs | None, typer.Option(help="Only runs that ended like this; cancelled covers partial.")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="All but the N that ended last, of that state if one is given."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Those that ended first, until database, results and logs fit: 5GB."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove ended runs with their results and logs, and make the database's file smaller.

    Those that are named, or those over a limit: of several limits, each is a reason to go. Without any, what battd's
    configuration says is removed now, old events too. What has not ended is never removed.

    \b
    Examples:
      battctl prune --dry-run
      battctl prune r7 nightly
      battctl prune --older-than 7d --state failed
      battctl prune --keep 20 --max-size 5GB
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    for one in runs or ():
        if is_task(reference(one)):
            raise BadInput(f"{one!r} is a task; only whole runs are removed")

    from batt_supervisor.wire import PruneSpec

    spec = PruneSpec(
        runs=tuple(runs or ()),
        older_than_s=duration("--older-than", older_than, or_none=True),
        state=RunState(state.value) if state else None,
        keep=keep,
        max_bytes=size("--max-size", max_size),
        dry_run=dry_run,
    )
    with me.client() as client:
        pruned = client.prune(spec)
        if not dry_run:
            pruned = pruned.model_copy(update={"after": _settled(client, pruned.after)})
    if me.json:
        document(pruned)
    else:
        _tell(pruned)
    return Exit.OK


def _settled(client: Client, found: StoreSize) -> StoreSize:
    """The sizes when everything is gone from the disk."""
    if found.removing:
        note("gone for everybody; waiting until the disk is free of it (Ctrl-C does not stop that)")
    while found.removing:
        time.sleep(LOOK_S)
        found = client.store_size()
    return found


def _tell(pruned: Pruned) -> None:
    if pruned.runs:
        table = Table("RUN", "NAME", "STATE", "TASKS", "ENDED", "WHY", right=("TASKS",), spare=("ENDED",))
        table.print(
            [(run.run, run.name, run.state, run.tasks, moment(run.ended_at_ms), run.reason) for run in pruned.runs]
        )
    tasks = sum(run.tasks for run in pruned.runs)
    what = f"{number_of(len(pruned.runs), 'run')} with {number_of(tasks, 'task')}"
    if pruned.dry_run:
        say(f"would remove {what}; the store takes {_sizes(pruned.before)}")
        return
    events = f", {number_of(pruned.events, 'event')}" if pruned.events else ""
    say(f"removed {what}{events}; the store took {_sizes(pruned.before)}, and takes {_sizes(pruned.after)}")
    if pruned.after.database_free_bytes and not pruned.after.shrinks:
        free = format_size(pruned.after.database_free_bytes)
        note(f"{free} are free within the database's file, which cannot be shortened: docs/operations.md, Retention")


def _sizes(size: StoreSize) -> str:
    total = size.database_bytes + size.results_bytes + size.logs_bytes
    return f"{format_size(total)} ({format_size(size.database_bytes)} of it the database)"
