"""What must hold when a chaos run is over. Each check gives sentences about what does not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import chaos_tasks
from chaos_clients import Promise
from chaos_evidence import Attempt, Evidence, Noted, Row
from chaos_plan import Task

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import CHARGED
from batt_supervisor.core.retry import POISON_AFTER, UNCHARGED_CAP
from worker.family import stat

KILLED_AT: Final = re.compile(r"^battd: killed at '(\w+)', passing (\d+), by BATT_FAULTS$", re.MULTILINE)

NURSERY_ENDED: Final = re.compile(r"nursery ended, another one takes over .*?\bpid=(\d+)")

UNSEEN_MS: Final = 10_000
"""How long battd may go on as if a process that was killed were there: on a machine that is very busy."""

ANY_TIME: Final = ("starved", "evicted")
"""Outcomes that a crowded machine gives to any attempt, uncharged."""


def complaints(seen: Evidence) -> list[str]:
    """All that does not hold."""
    found = [*_service(seen), *_rows(seen), *_files(seen), *_events(seen)]
    for name, promise in seen.promises.items():
        found += [f"{name}: {sentence}" for sentence in _run(seen, promise)]
    return found


# battd and its processes


def _service(seen: Evidence) -> Iterator[str]:
    if seen.stopped != 0:
        yield f"supervisord left with exit code {seen.stopped}"
    yield from (f"outlived everything: {process}" for process in seen.left)
    yield from (f"a control group was left: {group}" for group in seen.groups_left)
    yield from (f"escaped and lives: {pid}" for pid in _escaped(seen))
    if "Traceback" in seen.log:
        yield f"battd's log has a traceback: {seen.log[seen.log.index('Traceback') :][:1500]}"
    ours = {kill.pid for kill in seen.kills if kill.what == "nursery"}
    for pid in map(int, NURSERY_ENDED.findall(seen.log)):
        if pid not in ours:
            yield f"a nursery (pid {pid}) ended, and nobody had ended it"
    deaths = battd_deaths(seen)
    if deaths < seen.plan.kills:
        yield f"battd was killed {deaths} times, not {seen.plan.kills}"
    struck = {kill.pid for kill in seen.kills if kill.what in ("battd", "drain")}
    fired = Counter(f"{point}=kill@{passing}" for point, passing in KILLED_AT.findall(seen.log))
    for number, life in enumerate(seen.lives[:-1], 1):
        if life.pid in struck:
            continue
        faults = [fault if "@" in fault else f"{fault}@1" for fault in life.fault.split(",") if fault]
        fault = next((fault for fault in faults if fired[fault]), None)
        if fault is None:
            yield f"life {number} of battd (pid {life.pid}, faults {life.fault!r}) ended, and nobody had ended it"
        else:
            fired[fault] -= 1


def _escaped(seen: Evidence) -> Iterator[int]:
    for notes in seen.noted.values():
        for note in (note for task in notes.values() for note in task if note.what == "escaped"):
            found = stat(note.pid)
            if found is not None and found.state not in "ZX" and found.started == note.at_s:
                yield note.pid


def battd_deaths(seen: Evidence) -> int:
    """How often battd was killed: by us, or at a fault point."""
    return sum(kill.what == "battd" for kill in seen.kills) + len(KILLED_AT.findall(seen.log))


# The store as a whole


def _rows(seen: Evidence) -> Iterator[str]:
    yield from (f"the database is broken: {sentence}" for sentence in seen.disk.broken)
    keys = {f"key of {name}": promise for name, promise in seen.promises.items()}
    yield from (f"there is a run that nobody submitted: {key}" for key in seen.disk.tasks if key not in keys)
    yield from (f"an acknowledged run is not there: {key}" for key in keys if key not in seen.disk.tasks)
    counts = {key: dict(Counter(row.state for row in rows)) for key, rows in seen.disk.tasks.items()}
    for key, promise in keys.items():
        told = seen.answers.counts.get(promise.run.name)
        if not counts.get(key) == seen.disk.tallies.get(key) == told:
            yield f"{key}: {counts.get(key)} in rows, {seen.disk.tallies.get(key)} counted, {told} told"
    total = dict(sum((Counter(each) for each in counts.values()), Counter[State]()))
    if {state: count for state, count in seen.answers.total.items() if count} != total:
        yield f"status told {seen.answers.total}, the rows are {total}"
    order = Counter(row.settled_seq for rows in seen.disk.tasks.values() for row in rows)
    yield from (
        f"{count} tasks have {seq} as their place in the order of ends" for seq, count in order.items() if count > 1
    )


def _files(seen: Evidence) -> Iterator[str]:
    known = {file for _, file in seen.disk.results.values() if file is not None}
    yield from (f"the result file {file} is not there" for file in sorted(known - seen.disk.files))
    # A request that was too large for a pipe stays until its slot has another one.
    there = {file for file in seen.disk.files if not file.startswith("request-")}
    yield from (f"the file {file} in results/ is nobody's" for file in sorted(there - known))


def _events(seen: Evidence) -> Iterator[str]:
    """The log, followed over all deaths, has every move once, and tells of each task what its row says."""
    if seen.missed:
        yield f"{seen.missed} events could not be followed"
    for one, following in pairwise(seen.events):
        if following.seq != one.seq + 1:
            yield f"event {one.seq} is followed by event {following.seq}"
    states: dict[str, str | None] = {}
    claims: Counter[str] = Counter()
    for event in seen.events:
        if event.task is None:
            continue
        if states.get(event.task) != event.was:
            yield f"{event.task} was {states.get(event.task)}, and event {event.seq} has it move from {event.was}"
        states[event.task] = event.to
        claims[event.task] += event.to == State.RUNNING
    for row in (row for rows in seen.disk.tasks.values() for row in rows):
        if states.get(f"t{row.id}") != row.state or claims[f"t{row.id}"] != row.attempt:
            told = f"{states.get(f't{row.id}')} after {claims[f't{row.id}']} claims"
            yield f"by its events t{row.id} is {told}, by its row {row.state} after {row.attempt}"


# A run


def _run(seen: Evidence, promise: Promise) -> Iterator[str]:
    run = promise.run
    rows = seen.disk.tasks.get(f"key of {run.name}", [])
    if [row.index for row in rows] != list(range(len(run.tasks))):
        yield f"{len(run.tasks)} tasks were submitted, and {len(rows)} are there"
        return
    results = seen.answers.results.get(run.name, [])
    if [result.index for result in results] != list(range(len(run.tasks))):
        yield f"{len(run.tasks)} tasks were submitted, and {len(results)} were told"
        return
    again = [row.id for row in rows if row.attempt > promise.retried.get(f"t{row.id}", -1)]
    if promise.retry_acknowledged is not None and len(again) < len(rows):
        yield f"{len(rows) - len(again)} of {len(promise.retried)} failed tasks never ran again after their retry"
    notes = seen.noted[run.name]
    yield from (f"a task that is none of its: {name}" for name in notes.keys() - {task.name for task in run.tasks})
    for task, row, result in zip(run.tasks, rows, results, strict=True):
        found = [
            *_task(seen, promise, task, row),
            *_attempts(seen, promise, task, row),
            *_intervals(row, notes.get(task.name, ())),
            *_result(seen, task, row, result.value, (result.id, result.state, result.attempt)),
        ]
        yield from (f"t{row.id} ({task.name}, {task.kind.name}): {sentence}" for sentence in found)


def _task(seen: Evidence, promise: Promise, task: Task, row: Row) -> Iterator[str]:
    """It ended once, and as it could."""
    if row.args[1:] != [task.name, *task.args]:
        yield f"its arguments are {row.args}"
    ends = [attempt.outcome for attempt in row.attempts]
    oks = ends.count("ok")
    match row.state:
        case State.SUCCEEDED:
            if not task.kind.succeeds or oks != 1 or ends[-1:] != ["ok"]:
                yield f"succeeded after {ends}"
        case State.FAILED:
            if task.kind.succeeds and not _given_up(row):
                yield f"failed: {row.reason} after {ends}"
        case State.CANCELLED:
            if not promise.cancel_asked:
                yield "cancelled, and nobody had asked for that"
        case _:
            yield f"has not ended: {row.state}"
    if oks and row.state is not State.SUCCEEDED:
        yield f"{row.state} after {ends}"
    if row.state is not State.CANCELLED and row.attempts and row.outcome != ends[-1]:
        yield f"its outcome is {row.outcome}, that of its last attempt {ends[-1]}"
    if (row.settled_seq is None) == (row.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)):
        yield f"{row.state}, and its place in the order of ends is {row.settled_seq}"


def _given_up(row: Row) -> bool:
    """Whether a task that would have succeeded was killed or lost so often that it rightly was given up."""
    crashes = sum(attempt.outcome == "crashed" for attempt in row.attempts)
    losses = sum(attempt.outcome == "lost" for attempt in row.attempts)
    poisoned = "poison" in row.reason and crashes > POISON_AFTER
    return poisoned or (row.reason.endswith(f"lost {losses} times") and losses > UNCHARGED_CAP)


def _attempts(seen: Evidence, promise: Promise, task: Task, row: Row) -> Iterator[str]:
    """They are numbered without a gap, came one after another, and ended by the task itself or by what was done."""
    if [attempt.number for attempt in row.attempts] != list(range(1, row.attempt + 1)):
        yield f"has had {row.attempt} attempts, and there are {[attempt.number for attempt in row.attempts]}"
    before = 0
    for attempt in row.attempts:
        if attempt.ended_at_ms is None:
            yield f"attempt {attempt.number} has no end"
            continue
        if attempt.claimed_at_ms < before:
            yield f"attempt {attempt.number} was claimed before the one before it had ended"
        before = attempt.ended_at_ms
        if promise.cancelled_at_ms is not None and attempt.claimed_at_ms > promise.cancelled_at_ms:
            yield f"attempt {attempt.number} was claimed after the cancel had been acknowledged"
        if attempt.outcome != task.kind.outcome and not _done_to_it(seen, promise, attempt):
            yield f"attempt {attempt.number} ended as {attempt.outcome}: {attempt.reason}"
    ends = Counter(attempt.outcome for attempt in row.attempts)
    if not promise.run.retry:
        charged = sum(count for outcome, count in ends.items() if outcome in CHARGED)
        if (row.charged, row.uncharged) != (charged, ends["lost"]):
            yield f"charged {row.charged}, uncharged {row.uncharged} after {dict(ends)}"
        if charged > task.kind.max_attempts:
            yield f"{charged} attempts were charged, of {task.kind.max_attempts}"


def _done_to_it(seen: Evidence, promise: Promise, attempt: Attempt) -> bool:
    """Whether an attempt's end is explained by what was killed while it lasted, or by what was asked."""
    ended_at_ms = attempt.ended_at_ms or 0

    def struck(*what: str) -> list[int]:
        # battd sees it a little later, and may have claimed the attempt meanwhile.
        between = (kill for kill in seen.kills if attempt.claimed_at_ms - UNSEEN_MS <= kill.at_ms <= ended_at_ms)
        return [kill.pid for kill in between if kill.what in what]

    match attempt.outcome:
        case "lost" if "battd went away" in attempt.reason:
            return any(attempt.claimed_at_ms <= life.at_ms <= ended_at_ms for life in seen.lives)
        case "lost" if "battd was stopped" in attempt.reason:
            return bool([kill for kill in seen.kills if kill.what == "drain" and kill.at_ms <= ended_at_ms])
        case "lost" if "nursery" in attempt.reason:
            return bool(struck("nursery"))
        case "lost":
            return bool(struck("nursery", "worker"))
        case "crashed" if "nursery" in attempt.reason:
            return bool(struck("nursery"))
        case "crashed":
            return attempt.signal == "SIGKILL" and attempt.worker_pid in struck("worker")
        case "cancelled":
            return promise.cancel_asked
    return attempt.outcome in ANY_TIME


def _intervals(row: Row, notes: Sequence[Noted]) -> Iterator[str]:
    """It was never alive twice at one time, nor more often than it had attempts."""
    if any(note.what == "overlap" for note in notes):
        yield f"was alive twice at one time: {notes}"
    starts = [note for note in notes if note.what == "start"]
    ends = [note for note in notes if note.what == "end"]
    if len(starts) > len(row.attempts):
        yield f"was begun {len(starts)} times in {len(row.attempts)} attempts"
    for start, following in pairwise(starts):
        late = [end for end in ends if end.pid == start.pid and start.at_s <= end.at_s and end.at_s > following.at_s]
        if late and start.pid != following.pid:
            yield f"pid {start.pid} was at it until {late[0].at_s}, pid {following.pid} from {following.at_s} on"
    if row.state is State.SUCCEEDED and not ends:
        yield "succeeded, and was never at its end"
    if not row.attempts and starts:
        yield "ran without an attempt"


# Results


def value_of(task: Task) -> Any:
    """What a task that succeeds gives."""
    return chaos_tasks.blob(task.name, task.args[0]) if task.kind.function == "large" else task.name


def _result(seen: Evidence, task: Task, row: Row, value: Any, told: tuple[str, State, int]) -> Iterator[str]:
    """It is there, from the last attempt, and right; there is none where there should be none."""
    if told != (f"t{row.id}", row.state, row.attempt):
        yield f"battd told {told}, its row says {row.state} with attempt {row.attempt}"
    attempt, file = seen.disk.results.get(row.id, (None, None))
    if row.state is not State.SUCCEEDED:
        if attempt is not None or value is not None:
            yield f"{row.state}, and has a result of attempt {attempt}"
        return
    if attempt != row.attempt:
        yield f"its result is of attempt {attempt}, its last one is {row.attempt}"
    if value != value_of(task):
        yield f"its result is wrong: {str(value)[:80]!r}"
    if (file is not None) != (task.kind.function == "large"):
        yield f"its result lies in {file or 'its row'}"
    logged = seen.answers.logs.get(task.name)
    if logged is not None and logged.splitlines() != chaos_tasks.lines(task.name):
        yield f"its output is {logged[:200]!r}"
