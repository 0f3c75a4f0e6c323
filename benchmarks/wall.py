"""What the wall holds, measured: deadlines, survivors, killed workers, and what workers cost. One table.

Every figure is measured in this run, that of the peer, too. What a machine is slow at is only told; the exit code is 1
if something is wrong in kind: a process that was left, a task that failed, two executions of one task at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deadlines
import deaths
import rest
import starts
import survivors
from figures import Findings, table
from services import Services

PARTS = ("rest", "start", "recycling", "deadlines", "orphans", "kills", "deaths")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the wall holds: deadlines, survivors, killed workers, costs.")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of most parts (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these parts only")
    parser.add_argument(
        "--cgroup-root", default="auto", help="battd's setting: auto, off or a folder (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")

    bench = Path(__file__).parent.parent / ".bench"
    bench.mkdir(exist_ok=True)
    found = Findings()
    began, load = time.monotonic(), os.getloadavg()
    with tempfile.TemporaryDirectory(dir=bench, prefix="wall-") as folder:
        services = Services(Path(folder), given.cgroup_root)
        _measure(services, found, given)
    facts = {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": [round(one, 2) for one in load],
        "load_after": [round(one, 2) for one in os.getloadavg()],
        "python": platform.python_version(),
        "pebble": version("Pebble"),
        "kernel": platform.release(),
        "kill_by": services.kill_by,
        "rounds": given.rounds,
        "took_s": round(time.monotonic() - began, 1),
    }
    if given.json:
        print(json.dumps({"machine": facts, "figures": [asdict(one) for one in found.figures], "wrong": found.wrong}))
    else:
        report(found, facts)
    sys.exit(1 if found.wrong else 0)


def _measure(services: Services, found: Findings, given: argparse.Namespace) -> None:
    start_ms = 0.0

    def start() -> None:
        nonlocal start_ms
        start_ms = starts.measure_start(services, found, given.rounds)

    parts: dict[str, Callable[[], None]] = {
        "rest": lambda: rest.measure(services, found),
        "start": start,
        "recycling": lambda: starts.measure_recycling(services, found, start_ms, given.rounds),
        "deadlines": lambda: deadlines.measure(services, found, given.rounds),
        "orphans": lambda: survivors.measure_orphans(services, found, given.rounds),
        "kills": lambda: survivors.measure_kills(services, found, given.rounds),
        "deaths": lambda: deaths.measure(services, found),
    }
    # What a start takes is subtracted from what recycling takes.
    chosen = {*given.only, "start"} if "recycling" in given.only else set(given.only)
    for name, measure in parts.items():
        if name in chosen:
            services.begin_part(name)
            print(f"{name} ...", end="\r", file=sys.stderr, flush=True)
            try:
                measure()
            except AssertionError as error:  # what was waited for did not come; the other parts may tell why
                found.wrong.append(f"{name}: {error}")


def report(found: Findings, facts: dict[str, Any]) -> None:
    print(
        f"Python {facts['python']}, pebble {facts['pebble']}, Linux {facts['kernel']}, {facts['cores']} cores, "
        f"load {facts['load_before'][0]:.1f} before, {facts['load_after'][0]:.1f} after; "
        f"{facts['rounds']} rounds, {facts['took_s']:.0f} s"
    )
    print(f"Process trees are ended by: {facts['kill_by']}")
    print()
    print(table(found.figures))
    for wrong in found.wrong:
        print(f"WRONG: {wrong}")


if __name__ == "__main__":
    main()
