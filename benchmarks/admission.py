"""What admission costs while nothing is short: its share of the time in which battd runs no-op tasks.

A difference of one percent is lost in the noise of two runs. So battd runs as it is, with a clock around everything
that admission does (the gate's methods, what the plan asks of `admit`); that time, less what the clock itself takes, is
divided by the wall time of a run. This file is the program on both sides: with `--battd` it is battd with the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

SPENT = "BENCH_SPENT"
"""Variable that names the file into which battd writes what it has spent, on SIGUSR1 and at the end."""


class Clock:
    """Seconds spent in functions, those that they call included, each counted once."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.calls = 0
        self._depth = 0
        self._own_s = 0.0
        self._own_s = self._measure()

    def _measure(self) -> float:
        """What a call costs because it is timed, of that what is counted: the least of many, as it is quiet."""
        nothing = self.around(lambda: None)
        found = []
        for _ in range(200):
            self.spent_s = 0.0
            for _ in range(100):
                nothing()
            found.append(self.spent_s / 100)
        self.spent_s, self.calls = 0.0, 0
        return min(found)

    def net_s(self) -> float:
        """Seconds spent, without the clock's own."""
        return self.spent_s - self.calls * self._own_s

    def begin(self) -> float:
        self._depth += 1
        return time.perf_counter()

    def end(self, began_s: float) -> None:
        self._depth -= 1
        if not self._depth:
            self.spent_s += time.perf_counter() - began_s
            self.calls += 1

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **given: Any) -> Any:
            began_s = self.begin()
            try:
                return function(*args, **given)
            finally:
                self.end(began_s)

        return timed


def as_battd(words: list[str]) -> None:
    from batt_supervisor.core import start
    from batt_supervisor.daemon import attempts, main
    from batt_supervisor.daemon.gate import Gate

    clock = Clock()
    turn = Gate.turn

    @contextmanager
    def timed_turn(gate: Gate, wanted: bool) -> Any:
        began_s = clock.begin()
        with turn(gate, wanted):
            clock.end(began_s)
            yield
            began_s = clock.begin()
        clock.end(began_s)

    for name in ("look", "expected", "appetite", "fits", "note", "held", "started", "ended"):
        setattr(Gate, name, clock.around(getattr(Gate, name)))
    Gate.turn = timed_turn  # type: ignore[method-assign]
    for module in (start, attempts):
        module.outstanding = clock.around(module.outstanding)  # type: ignore[attr-defined]
    start.admit = clock.around(start.admit)  # type: ignore[assignment]

    def tell(*_: Any) -> None:
        Path(os.environ[SPENT]).write_text(json.dumps({"spent_s": clock.net_s(), "calls": clock.calls}))

    signal.signal(signal.SIGUSR1, tell)
    sys.argv[1:] = words
    main.main()


def measure(tasks: int, rounds: int, workers: int) -> list[tuple[float, float, int]]:
    """Of each round: wall seconds, seconds spent in admission, calls of it."""
    from throughput import started, through_battd

    folder = HERE.parent / ".bench"
    folder.mkdir(exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as state:
        spent = Path(state) / "spent"
        os.environ[SPENT] = str(spent)
        with started([sys.executable, __file__, "--battd"], workers, "full", state) as (client, service):
            through_battd(client, 2_000)
            before = asked(service, spent)
            for _ in range(rounds):
                wall_s = through_battd(client, tasks)
                after = asked(service, spent)
                found.append((wall_s, after["spent_s"] - before["spent_s"], int(after["calls"] - before["calls"])))
                before = after
    return found


def asked(service: subprocess.Popen[bytes], spent: Path) -> dict[str, float]:
    spent.unlink(missing_ok=True)
    service.send_signal(signal.SIGUSR1)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            told: dict[str, float] = json.loads(spent.read_text())
            return told
        except (FileNotFoundError, ValueError):
            time.sleep(0.01)
    raise SystemExit("battd does not tell what it has spent")


def main() -> None:
    if sys.argv[1:2] == ["--battd"]:
        as_battd(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description="What admission costs while nothing is short.")
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks of one measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    found = measure(given.tasks, given.rounds, given.workers)
    shares = [spent_s / wall_s for wall_s, spent_s, _ in found]
    if given.json:
        print(json.dumps({"shares": shares, "tasks": given.tasks}))
        return
    rate = statistics.median(given.tasks / wall_s for wall_s, _, _ in found)
    each_us = statistics.median(spent_s / given.tasks * 1e6 for _, spent_s, _ in found)
    print(
        f"{given.tasks} no-op tasks, {given.workers} workers, {given.rounds} rounds; "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"admission: {statistics.median(shares):.2%} of the wall time (min {min(shares):.2%}, max {max(shares):.2%}), "
        f"{each_us:.1f} µs a task at {rate:,.0f} tasks/s"
    )


if __name__ == "__main__":
    main()
