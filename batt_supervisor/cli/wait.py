"""battctl wait: follow a run to its end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from batt_supervisor.cli.exits import OF_RUN, Exit
from batt_supervisor.cli.options import (
    Caller,
    ConfigOption,
    JsonOption,
    SocketOption,
    StateDirOption,
    caller,
    reference,
)
from batt_supervisor.cli.output import counts, document, note, number_of, say
from batt_supervisor.cli.pace import Pace
from batt_supervisor.cli.place import Flags
from batt_supervisor.core.lifecycle import OPEN, SETTLED
from batt_supervisor.errors import BadInput, Unreachable
from batt_supervisor.units import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from batt_supervisor.client import Client
    from batt_supervisor.wire import RunInfo

ABSENCE_LONGEST_S = 60.0
"""So long may battd be away in the middle: a restart, however slow the host."""

LINE_EVERY_S = 5.0
BURST = 20
"""So many answers are asked for at once; then five a second, or a fast run would keep battd busy with us."""


def add_to(app: typer.Typer) -> None:
    app.command()(wait)


def wait(
    ctx: typer.Context,
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="r7, 7 or the run's name.")],
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up waiting after so long (exit 5); the run goes on.")
    ] = None,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Wait for a run and show how far it is.

    Exits 0 when every task succeeded, 1 when some failed, 3 when the run's deadline left it partial, 4 when it was
    cancelled, 5 when --timeout passed first. A battd that is restarted meanwhile is waited for, a minute at most.

    \b
    Examples:
      battctl wait r7
      battctl wait arc --timeout 10m
      battctl wait r7 --json | jq .outcomes
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    try:
        timeout_s = None if timeout is None else parse_duration(timeout)
    except BadInput as error:
        raise BadInput(f"--timeout: {error}") from None
    return until_ended(me, reference(run), timeout_s)


def until_ended(me: Caller, run: str, timeout_s: float | None) -> int:
    """Wait for a run; the exit code. With --json only its last state goes to standard output."""
    with me.client() as client:
        shown = _display(sys.stderr if me.json else sys.stdout)
        try:
            info, code = follow(client, run, shown, timeout_s)
        except KeyboardInterrupt:
            shown.close()
            note(f"battctl: stopped waiting; run {run} goes on")
            raise
        finally:
            shown.close()
    if me.json:
        document(info)
    else:
        say(summary(info))
    if code == Exit.TIMED_OUT:
        note(f"battctl: --timeout passed; run {info.run} goes on")
    return code


class Display(Protocol):
    """What shows the progress of a run."""

    step_s: float
    """How often it wants to be told, even if nothing has happened."""

    live: bool
    """Whether it wants to be told whenever something has."""

    def show(self, info: RunInfo, pace: Pace, now: float) -> None: ...

    def away(self, sentence: str, left_s: float) -> None: ...

    def close(self) -> None: ...


def follow(
    client: Client,
    run: str,
    shown: Display,
    timeout_s: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[RunInfo, Exit]:
    """Ask for a run until it has ended or the time is over; its last state and the exit code for it.

    Raises:
        Unreachable: At the first question, or for longer than `ABSENCE_LONGEST_S` later on.
    """
    started = clock()
    info = client.run(run)
    pace, asked, away_since = Pace(), 0, None
    while True:
        now = clock()
        if away_since is None:
            pace.see(now, settled(info))
            shown.show(info, pace, now)
        if (end := OF_RUN.get(info.state)) is not None:
            return info, end
        left_s = float("inf") if timeout_s is None else started + timeout_s - now
        if left_s <= 0:
            return info, Exit.TIMED_OUT
        asked += 1
        try:
            if asked > BURST:
                sleep(min(0.2, left_s))
            # By its id from now on: a newer run of the same name is another one.
            since = settled(info) if shown.live else None
            info = client.run(info.run, wait_s=min(shown.step_s, left_s), since=since)
            away_since = None
        except Unreachable as error:
            away_since = now if away_since is None else away_since
            patience_s = away_since + ABSENCE_LONGEST_S - clock()
            if patience_s <= 0:
                raise
            shown.away(str(error), patience_s)
            sleep(min(0.5, left_s))


def settled(info: RunInfo) -> int:
    return sum(number for state, number in info.counts.items() if state in SETTLED)


def still_open(info: RunInfo) -> int:
    return sum(number for state, number in info.counts.items() if state in OPEN)


def summary(info: RunInfo) -> str:
    """One line about a run: what it came to, and of which outcomes its failures are."""
    took = ""
    if info.ended_at_ms is not None and info.sealed_at_ms is not None:
        took = f" in {format_duration((info.ended_at_ms - info.sealed_at_ms) / 1000)}"
    # These two say no more than the states do.
    bad = {name: number for name, number in info.outcomes.items() if name not in ("ok", "cancelled")}
    detail = f" ({counts(bad)})" if any(bad.values()) else ""
    tasks = number_of(info.tasks, "task")
    return f"run {info.run} {info.name!r} {info.state}: {tasks}{took}: {counts(info.counts)}{detail}"


def progress_line(info: RunInfo, pace: Pace) -> str:
    """`1200/3200 (37%), 41.2/s, 48s left: 1200 succeeded, 4 running, 1996 queued; held: ...`."""
    done = settled(info)
    share = f" ({done * 100 // info.tasks}%)" if info.tasks else ""
    rate = f", {pace.rate:.1f}/s" if pace.rate else ""
    eta = pace.eta_s(still_open(info))
    left = f", {format_duration(eta)} left" if eta else ""
    hold = f"; held: {info.hold}" if info.hold else ""
    return f"{done}/{info.tasks}{share}{rate}{left}: {counts(info.counts)}{hold}"


class _Lines:
    """A line every few seconds, where no terminal is."""

    step_s = LINE_EVERY_S
    live = False

    def __init__(self, to_stdout: bool) -> None:
        self._say = say if to_stdout else note
        self._last: float | None = None
        self._away = False

    def show(self, info: RunInfo, pace: Pace, now: float) -> None:
        self._away = False
        if info.state in OF_RUN or (self._last is not None and now - self._last < LINE_EVERY_S):
            return
        self._last = now
        self._say(f"run {info.run} {info.name!r}: {progress_line(info, pace)}")
        if self._say is say:
            sys.stdout.flush()

    def away(self, sentence: str, left_s: float) -> None:
        if not self._away:
            note(f"battctl: {sentence}; trying again for {format_duration(left_s)}")
        self._away = True

    def close(self) -> None:
        pass


class _Bar:
    """A bar on a terminal, and a line below it. It is redrawn by whoever waits: a thread for that might be refused."""

    step_s = 1.0
    live = True

    def __init__(self, *, to_stderr: bool) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.text import Text

        self._detail = ""
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._progress.add_task("", total=None)
        self._live = Live(
            get_renderable=lambda: Group(self._progress, Text(self._detail)),
            console=Console(stderr=to_stderr),
            auto_refresh=False,
        )
        self._live.start()

    def show(self, info: RunInfo, pace: Pace, now: float) -> None:
        self._progress.update(
            self._task, description=f"{info.run} {info.name}", total=info.tasks, completed=settled(info)
        )
        self._detail = progress_line(info, pace)
        self._live.refresh()

    def away(self, sentence: str, left_s: float) -> None:
        self._detail = f"battd does not answer; trying again for {format_duration(left_s)}"
        self._live.refresh()

    def close(self) -> None:
        self._live.stop()


def _display(stream: object) -> Display:
    to_stderr = stream is sys.stderr
    terminal = sys.stderr.isatty() if to_stderr else sys.stdout.isatty()
    return _Bar(to_stderr=to_stderr) if terminal else _Lines(not to_stderr)
