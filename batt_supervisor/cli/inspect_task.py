"""battctl logs and why: what one task wrote, and why it stands where it stands."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import (
    Caller,
    ConfigOption,
    JsonOption,
    SocketOption,
    StateDirOption,
    caller,
    reference,
    size,
)
from batt_supervisor.cli.output import Table, cell, document, moment, note, plain_json, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import BadInput, BattError
from batt_supervisor.units import format_size, parse_size

if TYPE_CHECKING:
    from batt_supervisor.client import Client
    from batt_supervisor.wire import AttemptInfo, HeadroomReport, Why

EXHAUSTED: Final = ("out_of_memory", "out_of_threads")
"""Outcomes that the machine is to blame for; their reason names the limit."""

NEEDED: Final = re.compile(r": (\d+(?: [KM]iB| B)?) needed\b")
"""Where the reason of a hold has what the task is expected to take (core/admission.py; a test compares)."""


def add_to(app: typer.Typer) -> None:
    app.command()(logs)
    app.command()(why)


def logs(
    ctx: typer.Context,
    *,
    task: Annotated[str, typer.Argument(metavar="TASK", help="t12 or 12.")],
    attempt: Annotated[int | None, typer.Option(min=1, metavar="N", help="Which attempt [default: the last].")] = None,
    events: Annotated[
        bool, typer.Option("--events", help="What has happened to the task, instead of what it wrote.")
    ] = False,
    tail: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Only the end of it: 64KiB, 1MB [default: battd's own limit].")
    ] = None,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Print what an attempt of a task wrote, or with --events the task's story.

    Its standard output and error, and the traceback that it ended with. The story has every move from state to state,
    when and why, as far back as battd keeps its events (`keep_events`).

    \b
    Examples:
      battctl logs t12
      battctl logs t12 --attempt 1 --tail 64KiB
      battctl logs t12 --events
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    if events:
        if attempt is not None or tail is not None:
            raise BadInput("--attempt and --tail choose from what a task wrote; they do not go with --events")
        return _story(me, reference(task))
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


def _story(me: Caller, task: str) -> int:
    with me.client() as client:
        story = client.story(task)
    if me.json:
        document([event.model_dump(by_alias=True) for event in story])
        return Exit.OK
    if not story or story[0].event != "created":
        note("battctl: what came before is no longer kept")
    table = Table("WHEN", "AFTER", "EVENT", "TRY", "FROM", "TO", "OUTCOME", "REASON", right=("AFTER", "TRY"))
    before = story[:1] + story
    table.print(
        (
            moment(event.at_ms, ms=True),
            f"{(event.at_ms - last.at_ms) / 1000:+.3f} s",
            event.event,
            event.attempt,
            event.was,
            event.to,
            event.outcome,
            event.reason,
        )
        for last, event in zip(before, story, strict=False)
    )
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

    Where memory or threads hold it: what it needs, what is free by which limit, what is promised and what is in
    reserve. With --json these are in `headroom`, in the unit of `missing`; the key is there for such a task only.

    \b
    Examples:
      battctl why t12
      battctl why t12 --json | jq '.short, .headroom.free'
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    with me.client() as client:
        found = client.why(reference(task))
        figures = _figures(found, _report(client)) if found.short in ("memory", "threads") else None
        if me.json:
            document(found if figures is None else {**plain_json(found), "headroom": figures})
            return Exit.OK
        last = _last_exhausted(client, found)
    missing = f" (short: {found.short}, {found.missing} missing)" if found.short and found.missing else ""
    say(cell(f"{found.task} is {found.state}: {found.reason}{missing}"))
    if figures is not None:
        say(cell(_in_words(found, figures)))
    if last is not None:
        say(cell(f"  attempt {last.number} ended with {last.outcome}: {last.reason or 'no reason was kept'}"))
    return Exit.OK


def _report(client: Client) -> HeadroomReport | None:
    try:
        return client.headroom()
    except BattError:
        return None  # an older battd; its sentence says why all the same


def _figures(found: Why, report: HeadroomReport | None) -> dict[str, Any] | None:
    """What admission goes by now, for what is short; None where battd cannot tell."""
    if report is None:
        return None
    room = report.headroom
    others = [holder for holder in report.holders if not holder.own]
    if found.short == "memory":
        return {
            "free": room.memory_free_bytes,
            "limit": room.memory_limit,
            "promised": room.memory_promised_bytes,
            "promised_by_others": sum(holder.memory_promised_bytes for holder in others),
            "reserve": room.memory_reserve_bytes,
        }
    return {
        "free": room.threads_free,
        "limit": room.threads_limit,
        "promised": room.threads_promised,
        "promised_by_others": sum(holder.threads_promised for holder in others),
        "reserve": room.threads_reserve,
    }


def _in_words(found: Why, figures: dict[str, Any]) -> str:
    """The need as it was when the task was held; the rest as it is now."""
    shown = format_size if found.short == "memory" else str
    need = NEEDED.search(found.reason)
    needs = "" if need is None else f"needs {shown(parse_size(need[1]))}, "
    return (
        f"  {found.short}: {needs}free {shown(figures['free'])} by {figures['limit']}, "
        f"promised {shown(figures['promised'])} (of which {shown(figures['promised_by_others'])} by other "
        f"supervisors), reserve {shown(figures['reserve'])}"
    )


def _last_exhausted(client: Client, found: Why) -> AttemptInfo | None:
    """The last attempt of a task that waits to go again because there was no memory or thread to be had."""
    if found.state not in (State.QUEUED, State.SCHEDULED):
        return None  # the sentence is about that attempt, or about one that runs
    try:
        attempts = client.task(found.task).attempts
    except BattError:
        return None
    last = attempts[-1] if attempts else None
    if last is None or last.outcome not in EXHAUSTED or (last.reason and last.reason in found.reason):
        return None
    return last


def _head(task: str, attempt: AttemptInfo, of: int) -> str:
    outcome = attempt.outcome or "running"
    reason = f" ({attempt.reason})" if attempt.reason else ""
    return cell(f"==> {task}, attempt {attempt.number} of {of}: {outcome}{reason}")
