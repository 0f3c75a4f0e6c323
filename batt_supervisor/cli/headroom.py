"""battctl headroom: everything that battd starts tasks by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import ConfigOption, JsonOption, SocketOption, StateDirOption, caller
from batt_supervisor.cli.output import Table, cell, document, moment, number_of, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.units import format_size

if TYPE_CHECKING:
    from batt_supervisor.wire import HeadroomReport, HolderInfo, LimitInfo, PressureInfo, PromiseInfo


def add_to(app: typer.Typer) -> None:
    app.command()(headroom)


def headroom(
    ctx: typer.Context,
    *,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show what is free by every limit, and what is promised to whom.

    Of each resource the limit that leaves least `binds`: tasks are admitted by it. A limit marked with `each` is every
    single process's own.

    \b
    Examples:
      battctl headroom
      battctl headroom --json | jq '.limits[] | select(.binds)'
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    with me.client() as client:
        report = client.headroom()
    if me.json:
        document(report)
    else:
        _show(report)
    return Exit.OK


def _show(report: HeadroomReport) -> None:
    room = report.headroom
    others = [holder for holder in report.holders if not holder.own]
    _line("level", f"{room.level}, {room.width} at once" + (f": {room.level_reason}" if room.level_reason else ""))
    _line(
        "memory",
        f"{format_size(room.memory_free_bytes)} free by {room.memory_limit}, "
        f"{format_size(room.memory_promised_bytes)} promised"
        f"{_of_others(sum(one.memory_promised_bytes for one in others), format_size)}, "
        f"{format_size(room.memory_reserve_bytes)} in reserve",
    )
    _line(
        "threads",
        f"{room.threads_free} free by {room.threads_limit}, {room.threads_promised} promised"
        f"{_of_others(sum(one.threads_promised for one in others), str)}, {room.threads_reserve} in reserve",
    )
    _pressure(report.pressure)
    _line("evicted", f"{number_of(report.evictions, 'attempt')} stopped to save the rest")
    for text in report.missing or ("none",):
        _line("unread", text)
    _limits(report.limits)
    _promises(report.promises)
    _holders(report.ledger, report.holders)
    _changes(report)


def _line(name: str, text: str) -> None:
    say(cell(f"{name:8} {text}"))


def _of_others(promised: int, shown: Callable[[int], str]) -> str:
    return f" (of which {shown(promised)} by other supervisors)" if promised else ""


def _pressure(pressure: PressureInfo) -> None:
    """Percent of the last 10 s, as the kernel counts it."""
    _line(
        "pressure",
        f"memory {_percent(pressure.memory_full)} full, {_percent(pressure.memory_some)} some; "
        f"CPU {_percent(pressure.cpu_some)} some (of the last 10 s)",
    )
    load = "unknown" if pressure.load is None else f"{pressure.load:.2f}"
    cpus = "unknown" if pressure.cpus is None else f"{pressure.cpus:g}"
    _line("load", f"{load} in the last minute, CPUs {cpus}")
    swap = f"{format_size(pressure.swap_free_bytes)} of {format_size(pressure.swap_total_bytes)} free"
    _line("swap", swap if pressure.swap_total_bytes else "none")


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} %"


def _heading(text: str, *, empty: bool) -> None:
    say()
    say(cell(f"{text}: none" if empty else text))


def _limits(limits: Sequence[LimitInfo]) -> None:
    _heading("limits", empty=not limits)
    Table(
        "RESOURCE",
        "LIMIT",
        "USED",
        "FREE",
        "MARK",
        "SOURCE",
        "NAME",
        right=("LIMIT", "USED", "FREE"),
        spare=("SOURCE", "USED"),
    ).print([_limit(one) for one in limits])


def _limit(one: LimitInfo) -> tuple[object, ...]:
    shown = format_size if one.resource == "memory" else str
    mark = " ".join(["binds"] * one.binds + ["each"] * one.each)
    return one.resource, shown(one.limit), shown(one.used), shown(one.free), mark, one.source, one.name


def _promises(promises: Sequence[PromiseInfo]) -> None:
    _heading("promised to attempts that run", empty=not promises)
    Table("TASK", "MEMORY", "USED", "THREADS", "USED", "KIND", right=("MEMORY", "USED", "THREADS")).print(
        [
            (
                one.task,
                format_size(one.memory_need_bytes),
                None if one.memory_used_bytes is None else format_size(one.memory_used_bytes),
                one.threads_need,
                one.threads_used,
                one.kind,
            )
            for one in promises
        ]
    )


def _holders(ledger: str, holders: Sequence[HolderInfo]) -> None:
    """Who has written into the ledger; where it is stands above them, for it may be nowhere."""
    _heading(f"supervisors in the ledger ({ledger})", empty=not holders)
    Table("PID", "RUNNING", "MEMORY", "THREADS", "WHO", "NAME", right=("PID", "RUNNING", "MEMORY", "THREADS")).print(
        [
            (
                one.pid,
                one.running,
                format_size(one.memory_promised_bytes),
                one.threads_promised,
                "this one" if one.own else "other",
                one.name,
            )
            for one in holders
        ]
    )


def _changes(report: HeadroomReport) -> None:
    """The last changes, in the order in which they came."""
    _heading(f"changes of the level, {report.level_changes} since battd was started", empty=not report.recent_changes)
    Table("WHEN", "LEVEL", "WIDTH", "REASON", right=("WIDTH",)).print(
        [(moment(one.at_ms), one.level, one.width, one.reason) for one in report.recent_changes]
    )
