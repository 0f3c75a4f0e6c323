"""battctl check: whether the configuration can be meant, and whether the store is sound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import Caller, ConfigOption, JsonOption, SocketOption, StateDirOption, caller
from batt_supervisor.cli.output import counts, document, number_of, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.units import format_size

if TYPE_CHECKING:
    from batt_supervisor.upkeep import Report


def add_to(app: typer.Typer) -> None:
    app.command()(check)


def check(
    ctx: typer.Context,
    *,
    store: Annotated[bool, typer.Option("--store", help="Check the state directory instead.")] = False,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check the configuration that battd would start with; with --store, the database and its files.

    The configuration: file, BATT_ variables of this shell, and the flags given here. Exits 2 where something in it is
    wrong.

    The store: the database in itself, tallies against rows, rows against the files of results and logs. It is only
    read, and battd may go on working meanwhile. Exits 1 when something is wrong.

    \b
    Examples:
      battctl check --config /etc/batt/battd.toml
      battctl check --store --state-dir /var/lib/batt
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    return _check_store(me) if store else _check_settings(me)


def _check_settings(me: Caller) -> int:
    from batt_supervisor import upkeep

    flags = {"state_dir": me.flags.state_dir, "socket": me.flags.socket}
    config = Path(me.flags.config).expanduser() if me.flags.config else None
    settings = upkeep.check_settings(os.environ, config, {name: Path(text) for name, text in flags.items() if text})
    if me.json:
        document({"ok": True, "settings": settings.model_dump(mode="json")})
        return Exit.OK
    file = config or os.environ.get("BATT_CONFIG")
    say(f"the configuration is sound: {f'{file}, ' if file else 'no file, '}state directory {settings.state_dir}")
    return Exit.OK


def _check_store(me: Caller) -> int:
    from batt_supervisor import upkeep

    report = upkeep.check_store(me.place.state_dir)
    if me.json:
        document(_plain(report))
    else:
        _print(report, me.place.state_dir)
    return Exit.OK if report.sound else Exit.FAILED


def _plain(report: Report) -> dict[str, Any]:
    return {
        "ok": report.sound,
        "schema": report.schema,
        "runs": report.runs,
        "tasks": report.tasks,
        "database_bytes": report.database_bytes,
        "wal_bytes": report.wal_bytes,
        "results": report.results.count,
        "results_bytes": report.results.size_bytes,
        "logs": report.logs.count,
        "logs_bytes": report.logs.size_bytes,
        "unnamed_logs": report.unnamed_logs.count,
        "unnamed_logs_bytes": report.unnamed_logs.size_bytes,
        "left_over": report.left_over.count,
        "left_over_bytes": report.left_over.size_bytes,
        "left_over_files": report.left_over_files,
        "faults": [{"part": fault.part, "told": fault.told} for fault in report.faults],
        "more_faults": report.more,
        "unread": report.unread or None,
    }


def _print(report: Report, state_dir: Path) -> None:
    wal = f", write-ahead log {format_size(report.wal_bytes)}" if report.wal_bytes else ""
    say(f"database  {state_dir / 'queue.db'}: schema {report.schema}, {format_size(report.database_bytes)}{wal}")
    if not report.unread:
        say(f"tasks     {number_of(report.runs, 'run')}: {counts(report.tasks)}")
    say(f"results   {number_of(report.results.count, 'file')}, {format_size(report.results.size_bytes)}")
    unnamed = report.unnamed_logs
    of_which = f"; {unnamed.count} ({format_size(unnamed.size_bytes)}) with no task's output" if unnamed.count else ""
    say(f"logs      {number_of(report.logs.count, 'file')}, {format_size(report.logs.size_bytes)}{of_which}")
    for name, size in report.left_over_files.items():
        say(f"left over {name}, {format_size(size)}")
    if left := report.left_over.count:
        in_all = format_size(report.left_over.size_bytes)
        say(f"          {number_of(left, 'file')}, {in_all}, named by no row; battd removes it")
    for fault in report.faults:
        say(f"wrong     {fault.part}: {fault.told}")
    if report.more:
        say(f"wrong     and {report.more} more")
    if report.unread:
        say(f"          {report.unread}")
    if report.sound:
        say("sound")
