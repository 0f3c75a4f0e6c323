"""battctl status: the service, a run or a task as it stands."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

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
)
from batt_supervisor.cli.output import (
    NONE,
    cell,
    compact,
    counts,
    document,
    moment,
    number_of,
    plain_json,
    say,
    shown,
    table,
)
from batt_supervisor.cli.place import Flags
from batt_supervisor.cli.wait import settled, summary
from batt_supervisor.core.lifecycle import SETTLED
from batt_supervisor.errors import BadInput, Unreachable
from batt_supervisor.units import format_duration, format_size

if TYPE_CHECKING:
    from batt_supervisor.client import Client
    from batt_supervisor.wire import AttemptInfo, KindInfo, RunInfo, ServiceInfo, SlotInfo, TaskInfo

    Seen = ServiceInfo | RunInfo | TaskInfo | list[KindInfo]


def add_to(app: typer.Typer) -> None:
    app.command()(status)


def status(
    ctx: typer.Context,
    *,
    what: Annotated[str | None, typer.Argument(metavar="[RUN|TASK]", help="r7, t12 or a run's name.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[str, typer.Option(metavar="TIME", help="Pause between two looks.")] = "2s",
    kinds: Annotated[
        bool, typer.Option("--kinds", help="Show what each kind of task was seen to take, and is expected to.")
    ] = False,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show the service, a run or a task as it stands.

    The service comes with its slots, headroom, holds and recent runs, a run with its stages, a task with its attempts.

    \b
    Examples:
      battctl status
      battctl status r7 --watch
      battctl status t12
      battctl status --kinds
      battctl status --json | jq .headroom
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    pause_s = duration("--interval", interval) or 2.0
    if what is not None:
        if kinds:
            raise BadInput(f"--kinds shows what was learned from all runs: leave out {what!r}")
        reference(what)
    with me.client() as client:
        first = True
        while True:
            try:
                seen: Seen = client.kinds() if kinds else _look(client, what)
            except Unreachable as error:
                if first or not watch:
                    raise
                say(f"battctl: {error}")
            else:
                if me.json:
                    say(compact(plain_json(seen))) if watch else document(seen)
                else:
                    _show(seen, again=watch, first=first)
            if not watch:
                return Exit.OK
            first = False
            sys.stdout.flush()
            time.sleep(pause_s)


def _look(client: Client, what: str | None) -> ServiceInfo | RunInfo | TaskInfo:
    if what is None:
        return client.service()
    return client.task(what) if is_task(what) else client.run(what)


def _show(seen: Seen, *, again: bool, first: bool) -> None:
    from batt_supervisor.wire import RunInfo, ServiceInfo

    if again and sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[2J")
    elif again and not first:
        say()
    now_ms = time.time() * 1000
    if isinstance(seen, list):
        _kinds(seen)
    elif isinstance(seen, ServiceInfo):
        _service(seen, now_ms)
    elif isinstance(seen, RunInfo):
        _run(seen, now_ms)
    else:
        _task(seen)


def _service(service: ServiceInfo, now_ms: float) -> None:
    draining = ", draining: it starts nothing and ends when its attempts have" if service.draining else ""
    up = format_duration(max(now_ms - service.started_at_ms, 0) / 1000)
    say(f"battd {service.version}, pid {service.pid}, up {up}{draining}")
    say(f"socket {service.socket}, state directory {service.state_dir}, store {service.store}")
    room = service.headroom
    say(
        f"memory  {format_size(room.memory_free_bytes)} free by {room.memory_limit}, "
        f"{format_size(room.memory_promised_bytes)} promised, {format_size(room.memory_reserve_bytes)} in reserve"
    )
    say(
        f"threads {room.threads_free} free by {room.threads_limit}, {room.threads_promised} promised, "
        f"{room.threads_reserve} in reserve"
    )
    if room.level != "open":
        say(f"level   {room.level}, {room.width} at once: {room.level_reason}")
    say(f"tasks   {counts(service.counts)}")
    say(f"ended   {counts(service.outcomes)}")
    for held, reason in service.holds.items():
        say(f"held    {held}: {reason}")
    say()
    say(f"{number_of(len(service.slots), 'worker')} for {service.width} at once; what is beyond stands by")
    table(
        ("SLOT", "PHASE", "TASK", "WORKER", "SERVED", "RENEWED", "DIRECTORY"),
        [(s.slot, s.phase, _doing(s), s.worker_pid, s.served, s.renewed, s.cwd) for s in service.slots],
        right=("SLOT", "WORKER", "SERVED", "RENEWED"),
    )
    if service.runs:
        say()
        table(
            ("RUN", "NAME", "STATE", "DONE", "TASKS", "AGE", "COUNTS"),
            [
                (
                    run.run,
                    run.name,
                    run.state,
                    settled(run),
                    run.tasks,
                    format_duration(max(now_ms - run.created_at_ms, 0) / 1000),
                    counts(run.counts) + (f"; held: {run.hold}" if run.hold else ""),
                )
                for run in service.runs
            ],
            right=("DONE", "TASKS", "AGE"),
        )


def _kinds(found: list[KindInfo]) -> None:
    if not found:
        say("nothing was learned yet: no attempt has ended")
        return
    table(
        ("KIND", "LEARNED FROM", "MEMORY", "PEAK", "THREADS", "PEAK", "EXPECTED BY"),
        [
            (
                kind.kind,
                kind.attempts,
                format_size(kind.memory_need_bytes),
                format_size(kind.memory_peak_bytes),
                kind.threads_need,
                kind.threads_peak or None,
                "what it took" if kind.learned else "the default",
            )
            for kind in found
        ],
        right=("LEARNED FROM", "MEMORY", "PEAK", "THREADS"),
    )


def _doing(slot: SlotInfo) -> str | None:
    """A slot's task, and how far it says it is: `t12 3/10`."""
    if slot.task is None or slot.progress is None:
        return slot.task
    done, total = slot.progress
    return f"{slot.task} {done:g}/{total:g}" if total else f"{slot.task} {done:g}"


def _run(run: RunInfo, now_ms: float) -> None:
    say(cell(summary(run)))
    say(f"created {moment(run.created_at_ms)}, ended {moment(run.ended_at_ms)}, directory {run.cwd}")
    if run.deadline_at_ms is not None:
        left_s = (run.deadline_at_ms - now_ms) / 1000
        left = f" (in {format_duration(left_s)})" if left_s > 0 and run.ended_at_ms is None else ""
        say(f"deadline {moment(run.deadline_at_ms)}{left}")
    say(f"outcomes: {counts(run.outcomes)}")
    if run.hold:
        say(f"held: {run.hold}")
    say()
    table(
        ("STAGE", "WORK", "DONE", "TASKS", "COUNTS"),
        [
            (
                stage.name,
                stage.function or " ".join(stage.command or ()),
                sum(number for state, number in stage.counts.items() if state in SETTLED),
                sum(stage.counts.values()),
                counts(stage.counts),
            )
            for stage in run.stages
        ],
        right=("DONE", "TASKS"),
    )


def _task(seen: TaskInfo) -> None:
    task = seen.task
    place = f"task {task.index} of run {task.run}, stage {task.stage}"
    say(cell(f"{task.id} {task.state}: {place}; {seen.function or ' '.join(seen.command or ())}"))
    say(cell(f"arguments {shown(task.args)}"))
    if task.reason:
        say(cell(f"reason {task.reason}"))
    if task.value is not None:
        say(cell(f"value {shown(task.value)}"))
    if task.error is not None:
        say(cell(f"error {task.error.type}: {task.error.message}") + f" (`battctl logs {task.id}` has the traceback)")
    if seen.attempts:
        say()
        table(
            ("TRY", "STARTED", "OUTCOME", "WALL", "CPU", "PEAK", "THREADS", "EXIT", "WORKER", "REASON"),
            [_attempt(attempt) for attempt in seen.attempts],
            right=("TRY", "WALL", "CPU", "PEAK", "THREADS", "WORKER"),
        )


def _attempt(attempt: AttemptInfo) -> tuple[object, ...]:
    return (
        attempt.number,
        moment(attempt.claimed_at_ms),
        attempt.outcome or ("running" if attempt.ended_at_ms is None else NONE),
        NONE if attempt.wall_s is None else format_duration(attempt.wall_s),
        NONE if attempt.cpu_s is None else format_duration(attempt.cpu_s),
        NONE if attempt.peak_memory_bytes is None else format_size(attempt.peak_memory_bytes),
        attempt.peak_threads,
        attempt.signal or attempt.exit_code,
        attempt.worker_pid,
        attempt.reason,
    )
