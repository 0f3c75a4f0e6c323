"""battctl cancel and retry."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import (
    ConfigOption,
    JsonOption,
    SocketOption,
    StateDirOption,
    caller,
    is_task,
    reference,
)
from batt_supervisor.cli.output import document, number_of, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import BadInput


class Again(StrEnum):
    """States that can be retried."""

    FAILED = State.FAILED.value
    CANCELLED = State.CANCELLED.value


def add_to(app: typer.Typer) -> None:
    app.command()(cancel)
    app.command()(retry)


def cancel(
    ctx: typer.Context,
    *,
    what: Annotated[str, typer.Argument(metavar="RUN|TASK", help="r7, t12 or a run's name.")],
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Cancel what is open of a run, or a task.

    What runs is stopped; finished results stay.

    \b
    Examples:
      battctl cancel r7
      battctl cancel t12
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    with me.client() as client:
        changed = client.cancel_task(what) if is_task(reference(what)) else client.cancel(what)
    if me.json:
        document(changed)
    elif changed.tasks:
        say(f"run {changed.run}: {number_of(changed.tasks, 'task')} cancelled or told to stop")
    else:
        say(f"run {changed.run}: nothing was open, so nothing was cancelled")
    return Exit.OK


def retry(
    ctx: typer.Context,
    *,
    what: Annotated[str, typer.Argument(metavar="RUN|TASK", help="r7, t12 or a run's name.")],
    state: Annotated[
        Again | None, typer.Option(help="Of a run, only tasks in this state [default: failed and cancelled ones].")
    ] = None,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Queue failed or cancelled tasks once more.

    \b
    Examples:
      battctl retry r7
      battctl retry r7 --state failed
      battctl retry t12
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    if is_task(reference(what)):
        if state is not None:
            raise BadInput("--state chooses tasks of a run; it does not go with a single task")
        with me.client() as client:
            changed = client.retry_task(what)
    else:
        with me.client() as client:
            changed = client.retry(what, state=State(state.value) if state else None)
    if me.json:
        document(changed)
    elif changed.tasks:
        say(f"run {changed.run}: {number_of(changed.tasks, 'task')} queued again")
    else:
        say(f"run {changed.run}: nothing had failed or been cancelled, so nothing was queued again")
    return Exit.OK
