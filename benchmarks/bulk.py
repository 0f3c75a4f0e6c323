"""A bulk submission through battd, beside what SQLite itself does with the same rows; and who else waits meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import backlog
from figures import Findings, quantile

from batt_supervisor.core.lifecycle import State
from batt_supervisor.store.schema import connect, migrate
from batt_supervisor.testing import Daemon
from batt_supervisor.wire import CHUNK

BYSTANDER = Path(__file__).parent / "bystander.py"


def raw(folder: Path, tasks: int) -> float:
    """Rows a second of `executemany`, in transactions of as many rows as a request may have."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        db = connect(Path(place) / "raw.db")
        migrate(db)
        db.execute("INSERT INTO runs (name, cwd, env, created_at_ms) VALUES ('raw', '/', '{}', 0)")
        now_ms = time.time_ns() // 1_000_000
        began = time.perf_counter()
        for start in range(0, tasks, CHUNK):
            numbers = range(start, min(start + CHUNK, tasks))
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO tasks (run_id, idx, stage, task_key, args, state, moved_at_ms, event_seq) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                ((1, number, 0, None, f'{{"n":{number}}}', State.QUEUED, now_ms, number + 1) for number in numbers),
            )
            db.execute("COMMIT")
        took_s = time.perf_counter() - began
        count = db.execute("SELECT count(*) FROM tasks").fetchone()[0]
        db.close()
    assert count == tasks, f"{count} rows of {tasks} are there"
    return tasks / took_s


def through_battd(daemon: Daemon, tasks: int, found: Findings) -> tuple[float, list[float]]:
    """Tasks a second of a submission, and how long each request of somebody else took meanwhile, in ms."""
    with bystander(daemon) as waited_ms:
        began = time.perf_counter()
        created = backlog.submit(daemon, tasks)
        took_s = time.perf_counter() - began
    run = daemon.client.run(created.run)
    found.expect(created.sealed and created.tasks == tasks, f"submitted {tasks} tasks, the answer says {created}")
    found.expect(run.counts == {State.QUEUED: tasks}, f"submitted {tasks} tasks, there are {run.counts}")
    return tasks / took_s, waited_ms


@contextmanager
def bystander(daemon: Daemon) -> Iterator[list[float]]:
    """Another client that goes on writing; the list is filled at the end."""
    waited_ms: list[float] = []
    words = [sys.executable, str(BYSTANDER), str(daemon.socket)]
    other = subprocess.Popen(words, env=daemon.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()  # it is there
        yield waited_ms
        told, _ = other.communicate(timeout=60)
    finally:
        if other.poll() is None:
            other.kill()
        other.wait()
    assert other.returncode == 0, f"the bystander ended with {other.returncode}"
    waited_ms += json.loads(told)


def tell(rate: float, raw_rates: list[float], waited_ms: list[float], tasks: int, found: Findings) -> None:
    part = f"Submission of {tasks:,} tasks through the Client; peer: raw executemany"
    told = ", ".join(f"{one:,.0f}" for one in raw_rates)
    found.add(part, "acknowledged", rate, "tasks/s", peer=max(raw_rates), hold="0.5 of it", note=f"raw: {told}")
    part = "Meanwhile each request of another client, one write each"
    note = f"{len(waited_ms)} requests"
    found.add(part, "p50", quantile(waited_ms, 0.5), "ms", note=note)
    found.add(part, "p99", quantile(waited_ms, 0.99), "ms")
    found.add(part, "max", max(waited_ms), "ms", hold="100 ms")
