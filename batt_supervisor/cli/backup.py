"""battctl backup and restore: a state directory into one file, and back."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import ConfigOption, JsonOption, SocketOption, StateDirOption, caller
from batt_supervisor.cli.output import counts, document, note, number_of, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.errors import BadInput
from batt_supervisor.units import format_size


def add_to(app: typer.Typer) -> None:
    app.command()(backup)
    app.command()(restore)


def backup(
    ctx: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; its name ends in .tar, .tar.gz or .tgz.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write one moment of the queue, with its results and logs, into one file.

    battd may go on working meanwhile; it is not asked, and need not run.
    Exits 0, or 1 when FILE is written and something that the database names is missing.

    \b
    Examples:
      battctl backup /backups/batt-$(date +%F).tar.gz
      battctl backup --state-dir /var/lib/batt queue.tar
    """
    from batt_supervisor import upkeep

    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    with _ended_by_sigterm(), _progress() as told:
        manifest = upkeep.back_up(me.place.state_dir, file, force=force, told=told)
    for name in manifest.missing:
        note(f"battctl: {name}, which the database names, is missing, and so it is in {file}")
    if me.json:
        document({"file": str(file), "bytes": file.stat().st_size, **asdict(manifest)})
    else:
        say(f"{file}: {format_size(file.stat().st_size)}, {number_of(manifest.runs, 'run')}: {counts(manifest.tasks)}")
        say(
            f"{number_of(manifest.results, 'result file')} ({format_size(manifest.results_bytes)}), "
            f"{number_of(manifest.logs, 'log')} ({format_size(manifest.logs_bytes)})"
        )
    return Exit.FAILED if manifest.missing else Exit.OK


def restore(
    ctx: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `battctl backup` has written.")],
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Make a state directory from a backup.

    --state-dir must be given, and be empty or not there. What is restored is checked as `battctl check --store` does.
    Exits 0, or 1 when all is restored, and something was missing or wrong already when the backup was made.

    \b
    Examples:
      battctl restore /backups/batt-2026-11-21.tar.gz --state-dir /var/lib/batt
      battctl restore queue.tar --state-dir ./copy && battd --state-dir ./copy
    """
    from batt_supervisor import upkeep

    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    if not me.flags.state_dir:
        # Not the default one: whoever restores is to say where to, once.
        raise BadInput("name the directory to restore into with --state-dir")
    with _ended_by_sigterm(), _progress() as told:
        restored = upkeep.restore(file, me.place.state_dir, told=told)
    for fault in restored.faults:
        note(f"battctl: {fault}")
    manifest = restored.manifest
    if me.json:
        document({"state_dir": str(me.place.state_dir), "faults": restored.faults, **asdict(manifest)})
    else:
        say(f"{me.place.state_dir}: {number_of(manifest.runs, 'run')}: {counts(manifest.tasks)}")
        say("what was running when the backup was made goes again when battd serves it")
    return Exit.FAILED if restored.faults else Exit.OK


@contextmanager
def _progress() -> Iterator[_Told]:
    """What tells a person at a terminal how far it is; nobody else."""
    told = _Told(sys.stderr.isatty())
    try:
        yield told
    finally:
        told.clear()


class _Told:
    """One line on standard error that is written over and over."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._last = ""

    def __call__(self, what: str, done: int, of: int) -> None:
        text = f"{what}: {100 * done // max(of, 1)} %"
        if self._shown and text != self._last:
            print(f"\r{text:<20}", end="", file=sys.stderr, flush=True)
            self._last = text

    def clear(self) -> None:
        if self._last:
            print(f"\r{'':20}\r", end="", file=sys.stderr, flush=True)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM (of `timeout`, of a service manager) end this as Ctrl-C does: nothing half-done is left."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
