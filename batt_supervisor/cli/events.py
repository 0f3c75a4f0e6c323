"""battctl events: the log of everything that has happened, as JSON lines."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from batt_supervisor.cli.exits import OF_RUN, Exit
from batt_supervisor.cli.options import ConfigOption, JsonOption, SocketOption, StateDirOption, caller, reference
from batt_supervisor.cli.output import compact, note, number_of, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.cli.wait import ABSENCE_LONGEST_S
from batt_supervisor.errors import BadInput, NotFound, Unreachable
from batt_supervisor.units import format_duration

if TYPE_CHECKING:
    from batt_supervisor.client import Client
    from batt_supervisor.wire import EventInfo, EventPage

LAST = ("ended", "discarded", "removed")
"""What nothing follows in a run, unless somebody retries it."""


def add_to(app: typer.Typer) -> None:
    app.command()(events)


def events(
    ctx: typer.Context,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")] = False,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="SEQ", help="Start behind this event [default: the first kept].")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Leave out what has happened so far; goes with --follow.")] = False,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Only of this run; --follow leaves when it has ended.")
    ] = None,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Print what has happened, one JSON object a line, in order.

    Every move of every task, what happened to runs, starts and stops of battd. Each line has: seq, at_ms, event, run,
    task, attempt, from, to, outcome, reason. Its `seq` is the place in the log: `--after` with the last one that was
    read goes on behind it, whether battctl or battd was restarted in between. A battd that restarts is waited for,
    a minute at most. Events that retention has removed are counted on standard error.

    \b
    Examples:
      battctl events --run r7
      battctl events --follow --after 1200 >> events.jsonl
      battctl events --follow --new | jq -c 'select(.outcome == "timeout")'
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    if new and (not follow or after is not None):
        raise BadInput("--new goes with --follow, and without --after")
    with me.client() as client:
        start = client.events(limit=1).next if new else after or 0
        over = False
        if run is not None:
            run, over = _run(client, reference(run))
        for page in pages(client, start, run, follow=follow, over=over):
            for event in page:
                say(compact(event.model_dump(by_alias=True)))
            sys.stdout.flush()
    return Exit.OK


def _run(client: Client, run: str) -> tuple[str, bool]:
    """The id of the run that is meant, for a name may mean another one by the next page; and whether it has ended."""
    try:
        found = client.run(run)
    except NotFound:
        if not re.fullmatch(r"r?\d+", run):
            raise
        return run, True  # it was removed, and its events may still be there
    return found.run, found.state in OF_RUN


def pages(
    client: Client,
    after: int,
    run: str | None,
    *,
    follow: bool,
    over: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[EventInfo, ...]]:
    """Events behind `after`, page by page; with `follow` until the run that was named has ended, or for ever.

    Args:
        over: It has ended already.
    """
    away_since: float | None = None
    while True:
        try:
            page: EventPage = client.events(after=after, run=run, wait_s=25 if follow and not over else 0)
        except Unreachable as error:
            if not follow:
                raise
            if away_since is None:
                away_since = clock()
                note(f"battctl: {error}; trying again for {format_duration(ABSENCE_LONGEST_S)}")
            if clock() - away_since > ABSENCE_LONGEST_S:
                note(f"battctl: go on with --after {after}")
                raise
            sleep(0.5)
            continue
        away_since = None
        if page.missed:
            note(f"battctl: {number_of(page.missed, 'event')} behind {after} are no longer kept")
        yield page.items
        after = page.next
        if run is not None:
            for event in page.items:
                if event.task is None:
                    over = event.event in LAST
        if not page.more and (over or not follow):
            return
