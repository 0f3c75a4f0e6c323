"""Thousands of no-op tasks while workers are killed at random: whether all succeed, and how long nothing came."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from figures import Findings
from services import Services, wait_at_rest
from watching import noted

from batt_supervisor.core.lifecycle import State
from batt_supervisor.testing import Daemon

TASKS = 3_000
LARGE = dict.fromkeys((600, 1200, 1800, 2400), 50_000_000)
"""Length of the text that some of the tasks return."""

KILLS = 30
IDLE_KILLS = 5
"""As many of them find every worker idle."""

SLOTS = len(LARGE) + 1
"""There is always one that is not at a large result."""
GIVE_UP_S = 120.0


def measure(services: Services, found: Findings) -> None:
    part = f"{TASKS:,} no-ops, {KILLS} times SIGKILL for a random worker, {len(LARGE)} results of 50 MB, {SLOTS} slots"
    with services.battd(slots=SLOTS) as daemon:
        calm = _submit(daemon, services.folder / "calm")
        calm_ms = _length_ms(daemon, calm)
        folder = services.folder / "killed"
        run = _submit(daemon, folder)
        killed = _Killer(daemon, run, folder).go()
        daemon.wait(run, within_s=GIVE_UP_S)
        attempts = _attempts(daemon, run)
        while killed < KILLS:
            wait_at_rest(daemon)
            killed += _kill(random.choice(list(daemon.workers().values())))
        wait_at_rest(daemon)
        counts = daemon.client.run(run).counts
        good = counts.get(State.SUCCEEDED, 0)
        found.add(part, "succeeded", good, f"of {TASKS}", hold="all")
        found.expect(good == TASKS, f"not all tasks succeeded while workers were killed: {counts}")
        _check_values(daemon, run, found)
        gaps, calm_gaps = _gaps_ms(attempts), _gaps_ms(_attempts(daemon, calm))
        found.add(
            part, "longest gap between two no-ops' ends", gaps[0], "ms",
            note=f"then {gaps[1]}, {gaps[2]} ms; without kills {calm_gaps[0]}, {calm_gaps[1]}, {calm_gaps[2]} ms",
        )  # fmt: skip
        found.add(part, "total", _length_ms(daemon, run) / 1000, "s", note=f"without kills {calm_ms / 1000:.2f} s")
        lost = [index for index, outcome, _ in attempts if outcome != "ok"]
        found.add(
            part, "attempts cut off by a kill", len(lost), "",
            note=f"{sum(index in LARGE for index in lost)} of them while 50 MB were made or written; "
            f"{dict(Counter(outcome for _, outcome, _ in attempts))}",
        )  # fmt: skip
        overlaps = len(noted(folder / "overlaps"))
        again = sum(count > 1 for count in Counter(word for [word] in noted(folder / "calls")).values())
        found.add(part, "executions that overlapped", overlaps, "", hold="0", note=f"{again} tasks were executed again")
        found.expect(overlaps == 0, f"{overlaps} executions of a task overlapped with another one of the same task")
        found.expect(again <= KILLS, f"{again} tasks were executed more than once, after {KILLS} kills")


def _submit(daemon: Daemon, folder: Path) -> str:
    folder.mkdir()
    (folder / "locks").touch()
    items = [[str(folder), number, LARGE.get(number, 0)] for number in range(TASKS)]
    run = daemon.submit("counted:once", items, max_attempts=10, timeout_s=60.0)
    if folder.name == "calm":
        daemon.wait(run, within_s=GIVE_UP_S)
    return run


class _Killer:
    """Kills workers while the run goes on: most at random, spread over it, and each that writes a large result once."""

    def __init__(self, daemon: Daemon, run: str, folder: Path) -> None:
        self._daemon, self._run, self._folder = daemon, run, folder
        self._results = daemon.state_dir / "results"
        self._first = int(daemon.task(run)[1:])  # ids of a run's tasks follow each other
        self._writers: set[int] = set()

    def go(self) -> int:
        """Until the run has ended, or no kill is left for it; how many there were."""
        killed = at_random = 0
        to_kill = KILLS - IDLE_KILLS - len(LARGE)
        until = time.monotonic() + GIVE_UP_S
        while killed < KILLS - IDLE_KILLS and time.monotonic() < until:
            killed += self._kill_writer()
            info = self._daemon.client.run(self._run)
            if info.ended_at_ms is not None:
                break
            settled = info.counts.get(State.SUCCEEDED, 0)
            if at_random < to_kill and settled >= TASKS * at_random / (to_kill + 1):
                # A task that takes its worker down again and again is given up: the large ones are hit once each.
                spared = {int(pid) for _, pid in noted(self._folder / "large")}
                workers = [pid for pid in self._daemon.workers().values() if pid not in spared]
                hit = _kill(random.choice(workers)) if workers else 0
                at_random, killed = at_random + hit, killed + hit
        return killed

    def _kill_writer(self) -> int:
        """Kill a worker whose large result is half on disk, once for each such task; how many that were."""
        for path in self._results.glob("*.json.tmp"):
            number = int(path.name.partition("-")[0]) - self._first
            at = [int(pid) for noted_number, pid in noted(self._folder / "large") if int(noted_number) == number]
            if at and number not in self._writers:
                self._writers.add(number)
                return _kill(at[-1])
        return 0


def _kill(pid: int) -> int:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return 1
    return 0


def _attempts(daemon: Daemon, run: str) -> list[tuple[int, str, int]]:
    """Index of its task, outcome and end of every attempt of a run, read beside battd."""
    db = sqlite3.connect(f"file:{daemon.state_dir / 'queue.db'}?mode=ro", uri=True)
    try:
        sql = """SELECT t.idx, a.outcome, a.ended_at_ms FROM attempts a JOIN tasks t ON t.id = a.task_id
                 WHERE t.run_id = ? AND a.ended_at_ms IS NOT NULL ORDER BY a.ended_at_ms"""
        found: list[Any] = db.execute(sql, (int(run[1:]),)).fetchall()
        return found
    finally:
        db.close()


def _gaps_ms(attempts: list[tuple[int, str, int]]) -> list[int]:
    """Between the ends of one no-op and the next, the longest first."""
    ends = [at for index, outcome, at in attempts if outcome == "ok" and index not in LARGE]
    return sorted((later - earlier for earlier, later in pairwise(ends)), reverse=True)


def _length_ms(daemon: Daemon, run: str) -> int:
    info = daemon.client.run(run)
    return (info.ended_at_ms or 0) - (info.sealed_at_ms or 0)


def _check_values(daemon: Daemon, run: str, found: Findings) -> None:
    wrong = 0
    for task in daemon.client.all_results(run):
        size = LARGE.get(task.index)
        wrong += task.value != ("x" * size if size else task.index)
    found.expect(wrong == 0, f"{wrong} results were not what their tasks had returned")
