"""Looks a store over: the database in itself, and its rows against the files beside it. Changes nothing."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from batt_supervisor.core.lifecycle import OPEN, SETTLED
from batt_supervisor.errors import StoreDamaged
from batt_supervisor.store import events, trouble
from batt_supervisor.store.snapshot import Snapshot, held

SHOWN_MAX: Final = 100
"""Most faults of one part, and files left over, that are told one by one; there can be a million."""

BELOW_WAY: Final = re.compile(r"request-\d+\.json|modules-\d+-\d+\.json")
"""Names below results/ of what battd and its workers hand each other: files that are gone again in a moment."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that must not be.

    Attributes:
        part: One of `database`, `rows`, `tallies`, `runs`, `tasks`, `results`, `logs`, `events`.
        told: A sentence.
    """

    part: str
    told: str


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one kind: how many, and their bytes."""

    count: int = 0
    size_bytes: int = 0


@dataclass
class Report:
    """What was found.

    Attributes:
        schema: 0 where the database cannot even say that.
        tasks: How many are in each state, by counting them.
        database_bytes: Of the file, and `wal_bytes` of the write-ahead log beside it.
        unnamed_logs: Those that hold no ended attempt's output: of nurseries, of workers that have written none.
        faults: What must not be; at most `SHOWN_MAX` of each part.
        more: How many faults beyond these.
        left_over: Files below results/ that no row names, of attempts whose end was never written, or of removed runs.
            battd removes them.
        left_over_files: Some of them, with their bytes.
        unread: Why the rest could not be looked at; empty where it was.
    """

    schema: int = 0
    runs: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    database_bytes: int = 0
    wal_bytes: int = 0
    results: Files = Files()
    logs: Files = Files()
    unnamed_logs: Files = Files()
    faults: list[Fault] = field(default_factory=list)
    more: int = 0
    left_over: Files = Files()
    left_over_files: dict[str, int] = field(default_factory=dict)
    unread: str = ""

    @property
    def sound(self) -> bool:
        return not self.faults


def check(database: Path, results: Path, logs: Path) -> Report:
    """Look a store over, whether or not battd serves it.

    Files are listed before the database is looked at: what is listed and not named by then is not on its way. Who asks
    must see to it that nothing is pruned meanwhile.

    Raises:
        SchemaTooNew: A later version has written it.
        StoreUnavailable: The database cannot be opened, though it may be sound.
    """
    report = Report(database_bytes=_size(database), wal_bytes=_size(Path(f"{database}-wal")))
    in_results, in_logs = _listed(results), _listed(logs)
    report.results, report.logs = _sum(in_results.values()), _sum(in_logs.values())
    note = _Notes(report)
    try:
        with held(database) as found:
            report.schema = found.schema
            # First: what damaged pages say of tasks and files need not be so.
            note.all("database", _damage(found.db))
            if report.sound:
                report.runs, report.tasks = found.runs(), found.tasks()
                _check_rows(found, note)
                _check_events(found, note)
                _check_results(found, results, in_results, report, note)
                _check_logs(found, logs, in_logs, report, note)
    except StoreDamaged as error:
        note.one("database", str(error))
    except sqlite3.Error as error:
        note.one("database", str(trouble.told(error, database)))
    if any(fault.part == "database" for fault in report.faults):
        report.unread = "tasks, results and logs were not compared: the database is damaged"
    return report


class _Notes:
    """Faults on their way into a report."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._counts: Counter[str] = Counter()

    def one(self, part: str, told: str) -> None:
        self._counts[part] += 1
        if self._counts[part] > SHOWN_MAX:
            self._report.more += 1
        else:
            self._report.faults.append(Fault(part, told))

    def all(self, part: str, told: Iterable[str]) -> None:
        for one in told:
            self.one(part, one)


# The database in itself


def _damage(db: sqlite3.Connection) -> list[str]:
    try:
        found = db.execute(f"PRAGMA integrity_check({SHOWN_MAX})").fetchall()
    except sqlite3.DatabaseError:
        # It ended by what it had found; asked for one thing only, it comes to say it.
        found = db.execute("PRAGMA integrity_check(1)").fetchall()
    return [" ".join(said.split()) for (said,) in found if said != "ok"]


_OPEN: Final = ", ".join(f"'{state}'" for state in sorted(OPEN))
_SETTLED: Final = ", ".join(f"'{state}'" for state in sorted(SETTLED))

_TALLIES: Final = f"""
SELECT run_id, stage, state, outcome, sum(counted), sum(tallied) FROM (
    SELECT run_id, stage, state, iif(state IN ({_SETTLED}), coalesce(outcome, ''), '') AS outcome,
        count(*) AS counted, 0 AS tallied
        FROM tasks GROUP BY 1, 2, 3, 4
    UNION ALL SELECT run_id, stage, state, outcome, 0, count FROM tallies
) WHERE run_id IN whole GROUP BY 1, 2, 3, 4 HAVING sum(counted) != sum(tallied)
"""

_RUNS: Final = f"""
SELECT id, ended_at_ms IS NOT NULL FROM runs r WHERE id IN whole AND (ended_at_ms IS NOT NULL) != (
    sealed_at_ms IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM tallies y WHERE y.run_id = r.id AND y.count > 0 AND y.state IN ({_OPEN}))
)
"""

_TASKS: Final = f"""
SELECT t.id, t.state, t.attempt, count(a.number), coalesce(sum(a.number IS NOT NULL AND a.ended_at_ms IS NULL), 0)
FROM tasks t LEFT JOIN attempts a ON a.task_id = t.id WHERE t.run_id IN whole GROUP BY t.id
HAVING t.attempt != count(a.number) OR max(coalesce(a.number, 0)) != t.attempt
    OR coalesce(sum(a.number IS NOT NULL AND a.ended_at_ms IS NULL), 0) != (t.state IN ('running', 'stopping'))
    OR (t.state IN ({_SETTLED})) != (t.settled_seq IS NOT NULL) OR (t.state IN ({_SETTLED}) AND t.outcome IS NULL)
"""

_WITHOUT_RESULT: Final = """
SELECT t.id FROM tasks t LEFT JOIN results r ON r.task_id = t.id
WHERE t.run_id IN whole AND t.state = 'succeeded' AND ((r.value IS NULL) = (r.file IS NULL))
"""


def _check_rows(found: Snapshot, note: _Notes) -> None:
    """What each transaction leaves true."""
    for table, row, parent, _ in found.db.execute("PRAGMA foreign_key_check"):
        of = table if row is None else f"row {row} of {table}"  # tables without a rowid say no more
        note.one("rows", f"{of} belongs to a row of {parent} that is not there")
    for run, stage, state, outcome, counted, tallied in _of_whole(found, _TALLIES):
        of = f"{state} {outcome}".strip()
        note.one("tallies", f"r{run}, stage {stage}: {counted} tasks are {of}, and {tallied} are tallied as that")
    for run, ended in _of_whole(found, _RUNS):
        said = "has ended, and has open tasks" if ended else "has not ended, and nothing of it is open"
        note.one("runs", f"r{run} {said}")
    for task, state, attempt, attempts, unended in _of_whole(found, _TASKS):
        note.one("tasks", f"t{task} is {state}, at attempt {attempt}; it has {attempts}, {unended} not ended")
    for (task,) in _of_whole(found, _WITHOUT_RESULT):
        note.one("results", f"t{task} has succeeded, and has no result")


def _check_events(found: Snapshot, note: _Notes) -> None:
    """That the log has no event twice, and that each task's last one is about this task and says its state.

    Both are read side by side in the order of events, whatever their number.
    """
    if not found.has("tasks", "event_seq"):
        return
    select = "SELECT event_seq, id, state FROM tasks WHERE event_seq IS NOT NULL AND run_id IN whole ORDER BY 1, 2"
    tasks = _of_whole(found, select)
    task = next(tasks, None)
    before: int | None = None
    for first, last, body in found.db.execute("SELECT first, last, body FROM events ORDER BY first"):
        if before is not None and first <= before:
            note.one("events", f"those from {first} on begin before the ones up to {before} have ended")
        held = first - 1
        try:
            spans = list(events.spans(first, body))
        except (ValueError, TypeError, LookupError):
            note.one("events", f"those from {first} to {last} cannot be read")
            while task is not None and task[0] <= last:
                task = next(tasks, None)
            before = last
            continue
        for seq, count, about, state in spans:
            held = seq + count - 1
            while task is not None and task[0] <= held:
                at, task_id, is_in = task
                place = None if about is None else about + at - seq
                if at < seq:
                    # Retention removes the oldest events.
                    if before is not None:
                        note.one("events", f"{at}, the last one of t{task_id}, is not there")
                elif (place, state) != (task_id, is_in):
                    of = "no task" if place is None else f"t{place}"
                    note.one("events", f"{at}, the last one of t{task_id}, which is {is_in}, says that {of} is {state}")
                task = next(tasks, None)
        if held != last:
            note.one("events", f"those from {first} to {last} are said to be there, and there are {held - first + 1}")
        before = last
    newest: int = found.db.execute("SELECT event_seq FROM counters").fetchone()[0]
    if before is not None and before > newest:
        note.one("events", f"the last one is said to be {newest}, and there is {before}")
    while task is not None and before is not None:
        note.one("events", f"{task[0]}, the last one of t{task[1]}, is not there")
        task = next(tasks, None)


def _of_whole(found: Snapshot, sql: str) -> Iterator[tuple[Any, ...]]:
    """Rows of a query over `whole`: the runs that nobody is removing, which takes several transactions."""
    going = " AND NOT going" if found.has("runs", "going") else ""
    whole = f"SELECT id FROM runs WHERE (sealed_at_ms IS NOT NULL OR closing IS NULL){going}"
    return iter(found.db.execute(f"WITH whole AS MATERIALIZED ({whole}) {sql}"))


# Its rows against the files


def _check_results(found: Snapshot, folder: Path, listed: dict[str, int], report: Report, note: _Notes) -> None:
    unnamed = dict(listed)
    for task, name in found.result_files():
        size = unnamed.pop(name, None)
        if size is None:
            size = _size(folder / name, missing=-1)  # written since the files were listed
        if size <= 0:
            note.one("results", f"results/{name}, the result of t{task}, is {'missing' if size < 0 else 'empty'}")
    live = {f"{task}-{attempt}" for task, attempt in found.live()}
    left_over = {
        f"results/{name}": size
        for name, size in sorted(unnamed.items())
        # Of an attempt whose end is not written yet; or gone again since, as is right.
        if name.partition(".")[0] not in live and not BELOW_WAY.fullmatch(name) and (folder / name).exists()
    }
    report.left_over = _sum(left_over.values())
    report.left_over_files = dict(islice(left_over.items(), SHOWN_MAX))


def _check_logs(found: Snapshot, folder: Path, listed: dict[str, int], report: Report, note: _Notes) -> None:
    named = found.log_ends()
    for name in sorted(named):
        if name not in listed and not (folder / name).exists():
            note.one("logs", f"logs/{name}, which holds output of tasks, is missing")
    report.unnamed_logs = _sum(size for name, size in listed.items() if name not in named)
    if found.has("logs", "attempts"):
        counted = "SELECT log AS name, count(*) AS counted, 0 AS kept FROM attempts WHERE log_to > log_from GROUP BY 1"
        for name, attempts, kept in found.db.execute(
            f"SELECT name, sum(counted), sum(kept) FROM ({counted} UNION ALL SELECT name, 0, attempts FROM logs) "
            "GROUP BY 1 HAVING sum(counted) != sum(kept)"
        ):
            note.one("logs", f"logs/{name} holds output of {attempts} attempts, and is kept for {kept}")


def _listed(folder: Path) -> dict[str, int]:
    """Files of a folder with their bytes; those that vanish while it is read are none."""
    found: dict[str, int] = {}
    if folder.is_dir():
        for entry in folder.iterdir():
            size = _size(entry, missing=-1)
            if size >= 0:
                found[entry.name] = size
    return found


def _size(path: Path, missing: int = 0) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return missing


def _sum(sizes: Iterable[int]) -> Files:
    listed = list(sizes)
    return Files(len(listed), sum(listed))
