"""A million queued tasks: how fast they are taken, what they cost while they wait, how soon battd goes on after a kill.

Every figure in one run, on the disk that the clone is on. What a machine is slow at is only told; the exit code is 1 if
something is wrong in kind: a task that is not there.

- Submission: the Client submits the tasks in one run to a real battd; from its first request to the answer that the run
  is sealed, so all of them are on disk. battd's only slot is busy with something else, so that they stay queued.
- Raw: one process, no HTTP, no check of anything: a database made by the store's own migrations, with the same
  indexes, synchronous=FULL; `executemany` of the very same rows, made as they are inserted, in transactions of 5,000,
  twice as many as the Client has in a request. Measured before and after the submission, and the better one counts.
- Bystander: meanwhile another client, a process of its own, submits runs of one task; what each of its requests took.
- At rest: the claim as the store makes it (on a copy of the database, in this process, each claim in a synced commit of
  its own), battd's memory, `battctl status` as a whole, with a few queued, more, and all of them. The peer is the few.
- Recovery: battd is killed with SIGKILL and started again; from the start of its process until the first of its tasks
  runs, by a mark that this task leaves. With all of them queued; with all but a few of them finished, which the
  benchmark writes into the database itself; and with only a few in the store at all, which is the peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import again
import backlog
import bulk
import waiting
from figures import Findings, table

from batt_supervisor.testing import Daemon

FEW = 10
"""Tasks of a store that is as good as empty. A restart takes one or two of them."""

LEVELS = (FEW, 1_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser(description="A million tasks: submission, what they cost in the queue, recovery.")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="restarts of each kind (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    given = parser.parse_args()
    if given.tasks < 10 * FEW:
        parser.error(f"--tasks must be at least {10 * FEW}")
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")

    bench = Path(__file__).parent.parent / ".bench"
    bench.mkdir(exist_ok=True)
    found = Findings()
    began, load = time.monotonic(), os.getloadavg()
    with tempfile.TemporaryDirectory(dir=bench, prefix="million-") as folder, ExitStack() as stack:
        _measure(Path(folder), stack, found, given)
    facts = {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": [round(one, 2) for one in load],
        "load_after": [round(one, 2) for one in os.getloadavg()],
        "python": platform.python_version(),
        "kernel": platform.release(),
        "sqlite": sqlite3.sqlite_version,
        "tasks": given.tasks,
        "rounds": given.rounds,
        "took_s": round(time.monotonic() - began, 1),
    }
    if given.json:
        print(json.dumps({"machine": facts, "figures": [asdict(one) for one in found.figures], "wrong": found.wrong}))
    else:
        report(found, facts)
    sys.exit(1 if found.wrong else 0)


def _measure(root: Path, stack: ExitStack, found: Findings, given: argparse.Namespace) -> None:
    raw_rates = [bulk.raw(root, given.tasks)]
    costs: list[waiting.Cost] = []
    killed: dict[int, Daemon] = {}
    rate, waited_ms = 0.0, [0.0]
    for queued in (*(level for level in LEVELS if level < given.tasks), given.tasks):
        print(f"{queued:,} tasks ...", end="\r", file=sys.stderr, flush=True)
        with ExitStack() as own:
            # The first and the last are started again later on.
            owner = stack if queued in (FEW, given.tasks) else own
            daemon = owner.enter_context(backlog.busy(root / f"queued-{queued}"))
            if queued == given.tasks:
                rate, waited_ms = bulk.through_battd(daemon, queued, found)
            else:
                backlog.submit(daemon, queued)
            living = waiting.of_living(daemon)
            backlog.kill(daemon)
            stored = waiting.of_store(backlog.database(daemon), root / "copy")
            costs.append(waiting.Cost(queued=queued, **living, **stored))
            killed[queued] = daemon
    raw_rates.append(bulk.raw(root, given.tasks))
    bulk.tell(rate, raw_rates, waited_ms, given.tasks, found)
    waiting.tell(costs, found)

    few, many = killed[FEW], killed[given.tasks]
    peer = f"{FEW} tasks in the store"
    daemons = {
        peer: few,
        f"{given.tasks:,} queued": many,
        f"{given.tasks:,} finished": stack.enter_context(again.finished(many, root / "finished", but=FEW)),
    }
    print("restarts ...     ", end="\r", file=sys.stderr, flush=True)
    again.tell(again.rounds(daemons, given.rounds), peer, found)


def report(found: Findings, facts: dict[str, Any]) -> None:
    print(
        f"{facts['tasks']:,} tasks; Python {facts['python']}, SQLite {facts['sqlite']}, Linux {facts['kernel']}, "
        f"{facts['cores']} cores, load {facts['load_before'][0]:.1f} before, {facts['load_after'][0]:.1f} after; "
        f"{facts['took_s']:.0f} s"
    )
    print()
    print(table(found.figures))
    for wrong in found.wrong:
        print(f"WRONG: {wrong}")


if __name__ == "__main__":
    main()
