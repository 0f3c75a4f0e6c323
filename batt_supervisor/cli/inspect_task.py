"""battctl logs and why: what one task wrote, and why it stands where it stands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import (
    ConfigOption,
    JsonOption,
    SocketOption,
    StateDirOption,
    caller,
    reference,
    size,
)
from batt_supervisor.cli.output import cell, document, note, plain_json, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.errors import BadInput
from batt_supervisor.units import format_size

if TYPE_CHECKING:
    from batt_supervisor.wire import AttemptInfo


def add_to(app: typer.Typer) -> None:
    app.command()(logs)
    app.command()(why)


def logs(
    ctx: typer.Context,
    *,
    task: Annotated[str, typer.Argument(metavar="TASK", help="t12 or 12.")],
    attempt: Annotated[int | None, typer.Option(min=1, metavar="N", help="Which attempt [default: the last].")] = None,
    tail: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Only the end of it: 64KiB, 1MB [default: battd's own limit].")
    ] = None,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Print what an attempt of a task wrote.

    Its standard output and error, and the traceback that it ended with.

    \b
    Examples:
      battctl logs t12
      battctl logs t12 --attempt 1 --tail 64KiB
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    tail_bytes = size("--tail", tail)
    if tail_bytes == 0:
        raise BadInput("--tail must be larger than 0")
    with me.client() as client:
        info = client.task(reference(task))
        found = next((a for a in reversed(info.attempts) if attempt in (None, a.number)), None)
        if found is None:
            if attempt is not None:
                client.log(task, attempt=attempt)  # battd says what is wrong with it
            note(f"{info.task.id} is {info.task.state} and has had no attempt; `battctl why {info.task.id}` says why")
            if me.json:
                document({"log": None, "attempt": None})
            return Exit.OK
        log = client.log(task, attempt=found.number, tail_bytes=tail_bytes)
    if me.json:
        document({"log": plain_json(log), "attempt": plain_json(found)})
        return Exit.OK
    say(_head(info.task.id, found, len(info.attempts)))
    if log.truncated:
        say(f"[only the last {format_size(len(log.text.encode(errors='replace')))} are here]")
    if log.text:
        sys.stdout.flush()
        sys.stdout.buffer.write(log.text.encode("utf-8", "backslashreplace"))
        if not log.text.endswith("\n"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    else:
        say("[it wrote nothing]")
    if found.error is not None:
        say("==> it ended with")
        say(found.error.traceback.rstrip("\n") or f"{found.error.type}: {found.error.message}")
    return Exit.OK


def why(
    ctx: typer.Context,
    *,
    task: Annotated[str, typer.Argument(metavar="TASK", help="t12 or 12.")],
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Say why a task waits, or ended as it did.

    Where something holds it: what is short, and by how much.

    \b
    Examples:
      battctl why t12
      battctl why t12 --json | jq .short
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    with me.client() as client:
        found = client.why(reference(task))
    if me.json:
        document(found)
    else:
        missing = f" (short: {found.short}, {found.missing} missing)" if found.short and found.missing else ""
        say(cell(f"{found.task} is {found.state}: {found.reason}{missing}"))
    return Exit.OK


def _head(task: str, attempt: AttemptInfo, of: int) -> str:
    outcome = attempt.outcome or "running"
    reason = f" ({attempt.reason})" if attempt.reason else ""
    return cell(f"==> {task}, attempt {attempt.number} of {of}: {outcome}{reason}")
