"""Hard timeouts: when eight hung tasks are really dead, beside one pebble pool of eight workers."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from figures import Findings
from peers import ask
from services import Services, wait_at_rest
from watching import Watch, calls

from batt_supervisor.testing import Daemon, eventually

TASKS = 8
LIMIT_S = 1.0
GIVE_UP_S = 30.0
PEERS = ("spin", "ignore_signals")
"""Kinds that are also given to pebble, once."""

NAMES = {
    "spin": "spin in Python",
    "ignore_signals": "ignore all signals",
    "loop_in_c": "loop in C",
    "stop_itself": "SIGSTOP themselves",
    "mixed": "two of each",
}


class Took:
    """Of one kind: how late each death was, and how long it took until all was over."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self.cleared_s: list[float] = []
        self.outcomes: dict[str, int] = {}


def measure(services: Services, found: Findings, rounds: int) -> None:
    took = {kind: Took() for kind in NAMES}
    with services.battd(slots=TASKS) as daemon:
        for number in range(rounds):
            for kind in NAMES:
                _ours(daemon, kind, services.folder / f"{kind}-{number}", took[kind], found)
    peers = {kind: ask("hung", kind, services.folder / f"{kind}-pebble", TASKS, LIMIT_S) for kind in PEERS}
    for kind, ours in took.items():
        peer = peers.get(kind)
        part = f"Hard timeout of {LIMIT_S:g} s, {TASKS} tasks at once: {NAMES[kind]}"
        if not ours.late_ms:
            continue
        ended = ", ".join(f"{outcome} {count}" for outcome, count in ours.outcomes.items())
        found.add(
            part, "late, median", statistics.median(ours.late_ms), "ms", hold="50 ms",
            peer=statistics.median(peer["late_ms"]) if peer else None, note=f"{len(ours.late_ms)} tasks: {ended}",
        )  # fmt: skip
        found.add(
            part, "late, worst", max(ours.late_ms), "ms", hold="200 ms", peer=max(peer["late_ms"]) if peer else None
        )
        found.add(
            part, f"all {TASKS} cleared, worst", max(ours.cleared_s), "s", hold="1.5 s",
            peer=peer["cleared_s"] if peer else None, note="first call to the last end on disk",
        )  # fmt: skip


def _ours(daemon: Daemon, kind: str, notes: Path, took: Took, found: Findings) -> None:
    wait_at_rest(daemon)
    with Watch(daemon.workers().values()) as watch:
        args = [[str(notes), number] if kind == "mixed" else [str(notes)] for number in range(TASKS)]
        # A task whose CPU was taken by the other seven is to be tried again later: that would be another measurement.
        run = daemon.submit(f"hangs:{kind}", args, timeout_s=LIMIT_S, max_attempts=1, retry_delay_s=300.0)
        called = calls(notes, TASKS)
        dead = watch.wait(called, GIVE_UP_S)
        tasks = [task.id for task in daemon.results(run)]
        for task in tasks:
            eventually("its end is on disk", lambda task=task: daemon.attempts(task)[0].ended_at_ms is not None)
        took.cleared_s.append(time.monotonic() - min(called.values()))
        found.expect(dead, f"hard timeout, {kind}: not all were dead after {GIVE_UP_S:g} s")
        took.late_ms += [(watch.ended[pid] - at - LIMIT_S) * 1000 for pid, at in called.items() if pid in watch.ended]
    for task in tasks:
        outcome = daemon.attempts(task)[0].outcome or "none"
        took.outcomes[outcome] = took.outcomes.get(outcome, 0) + 1
        found.expect(outcome in ("timeout", "starved"), f"hard timeout, {kind}: a task ended as {outcome}")
    daemon.client.cancel(run)
    daemon.wait(run)
