"""Rows of the store as shapes of the API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from batt_supervisor.api.answer import Stored
from batt_supervisor.api.service import Service
from batt_supervisor.core.lifecycle import SETTLED, State, run_state
from batt_supervisor.core.model import Space
from batt_supervisor.core.needs import Learned, Needs
from batt_supervisor.errors import NotFound
from batt_supervisor.store.rows import AttemptRow, RunRow, StageRow, TallyRow, TaskRow
from batt_supervisor.wire import (
    AttemptInfo,
    KindInfo,
    RunInfo,
    StageInfo,
    TaskErrorInfo,
    TaskResult,
    run_name,
    task_name,
)

ORDINARY = ("slots", "worker")
"""What a queued task waits for in a service that has all it needs: not worth a word beside the counts."""


def counted(tallies: Iterable[TallyRow]) -> tuple[dict[State, int], dict[str, int]]:
    """How many tasks by state, and how many settled ones by outcome."""
    states: dict[State, int] = {}
    outcomes: dict[str, int] = {}
    for tally in tallies:
        states[tally.state] = states.get(tally.state, 0) + tally.count
        if tally.outcome and tally.state in SETTLED:
            outcomes[tally.outcome] = outcomes.get(tally.outcome, 0) + tally.count
    return states, outcomes


def run_info(service: Service, row: RunRow) -> RunInfo:
    tallies = service.reader.tallies(row.id)
    states, outcomes = counted(tallies)
    hold = service.holds().get(row.id)
    if hold is not None and hold.short in ORDINARY:
        hold = None
    return RunInfo(
        run=run_name(row.id),
        name=row.name,
        state=run_state(states, sealed=row.sealed_at_ms is not None, deadline_cut=row.deadline_cut),
        tasks=row.task_count,
        created_at_ms=row.created_at_ms,
        sealed_at_ms=row.sealed_at_ms,
        deadline_at_ms=row.deadline_at_ms,
        ended_at_ms=row.ended_at_ms,
        cwd=row.cwd,
        counts=states,
        outcomes=outcomes,
        stages=tuple(
            StageInfo(
                name=stage.name,
                function=stage.work.function,
                command=stage.work.command or None,
                counts=counted(tally for tally in tallies if tally.stage == stage.number)[0],
            )
            for stage in service.reader.stages(row)
        ),
        hold=hold.reason if hold and states.get(State.QUEUED) else None,
    )


def kinds(learned: Sequence[Learned], default: Space) -> list[KindInfo]:
    """What was learned of each kind, the one that was updated last first.

    Args:
        learned: In the order in which they were updated.
        default: What is expected of a kind that little is known of.
    """
    needs = Needs(learned)
    found = []
    for one in reversed(learned):
        need = needs.of_kind(one.kind, default)
        info = KindInfo(
            kind=one.kind,
            attempts=one.attempts,
            memory_need_bytes=need.memory_bytes,
            threads_need=need.threads,
            memory_peak_bytes=max(one.memory, default=0),
            threads_peak=max((peak for peak in one.threads if peak is not None), default=0),
            learned=one.is_learned,
        )
        found.append(info)
    return found


def task_result(row: TaskRow, stage: StageRow, results: Path) -> TaskResult:
    """A task with its result; arguments and value are as they are stored.

    Raises:
        NotFound: The file that holds its result cannot be read.
    """
    return TaskResult(
        id=task_name(row.id),
        run=run_name(row.run_id),
        stage=stage.name,
        index=row.idx,
        key=row.key,
        args=Stored(row.args.encode()),
        state=row.state,
        # Of an earlier attempt, while there is no last one: `attempts` of the task tell it.
        outcome=row.outcome if row.state in SETTLED else None,
        reason=(row.reason or None) if row.state in SETTLED else None,
        attempt=row.attempt,
        wall_s=row.wall_s,
        cpu_s=row.cpu_s,
        peak_memory_bytes=row.peak_memory_bytes,
        value=_value(row, results),
        error=error_info(row.error) if row.state is not State.SUCCEEDED else None,
    )


def _value(row: TaskRow, results: Path) -> Stored | None:
    if row.value is not None:
        return Stored(row.value.encode())
    if row.file is not None:
        try:
            return Stored((results / row.file).read_bytes())
        except OSError as error:
            raise NotFound(f"the result of task {task_name(row.id)} cannot be read: {error.strerror}") from error
    return None


def size_of(found: TaskResult) -> int:
    """Bytes of a result's arguments and value."""
    return sum(len(part.text) for part in (found.args, found.value) if isinstance(part, Stored))


def error_info(text: str | None) -> TaskErrorInfo | None:
    return TaskErrorInfo(**json.loads(text)) if text else None


def attempt_info(row: AttemptRow) -> AttemptInfo:
    return AttemptInfo(
        number=row.number,
        claimed_at_ms=row.claimed_at_ms,
        ended_at_ms=row.ended_at_ms,
        outcome=row.outcome,
        reason=row.reason or None,
        wall_s=row.wall_s,
        cpu_s=row.cpu_s,
        peak_memory_bytes=row.peak_memory_bytes,
        peak_threads=row.peak_threads,
        exit_code=row.exit_code,
        signal=row.signal,
        worker_pid=row.worker_pid,
        error=error_info(row.error),
    )
