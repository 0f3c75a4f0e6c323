"""What tasks cost while they are queued: claiming the next of them, battd's memory, the answer of battctl status."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import backlog
import psutil
from figures import Findings

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Head
from batt_supervisor.store import Store
from batt_supervisor.store.protocol import Writes
from batt_supervisor.store.values import Wanted
from batt_supervisor.testing import Daemon

HEADS = 64
"""How many heads battd's loop reads at a time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a queue of some length; times are medians."""

    queued: int
    heads_ms: float
    claim_ms: float
    commit_ms: float
    resident_mb: float
    proportional_mb: float
    peak_mb: float
    service_ms: float
    status_ms: float


def of_living(daemon: Daemon) -> dict[str, float]:
    """What a battd takes, and how long its answers do; by the names of `Cost`."""
    service_ms = [_timed_ms(daemon.client.service) for _ in range(20)]
    words = [sys.executable, "-m", "batt_supervisor.cli.main", "status"]

    def status() -> None:
        subprocess.run(words, env=daemon.environment(), stdout=subprocess.DEVNULL, check=True)

    status_ms = [_timed_ms(status) for _ in range(5)]
    memory = psutil.Process(daemon.pid).memory_full_info()
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    peak_kb = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return {
        "resident_mb": memory.rss / 1e6,
        "proportional_mb": memory.pss / 1e6,
        "peak_mb": peak_kb * 1024 / 1e6,
        "service_ms": statistics.median(service_ms),
        "status_ms": statistics.median(status_ms),
    }


def of_store(database: Path, folder: Path) -> dict[str, float]:
    """How long the heads of the queue take, and a claim in a synced commit; on a copy of a database nobody has open."""
    folder.mkdir()
    for file in database.parent.glob(f"{database.name}*"):
        shutil.copy(file, folder)
    store = Store(folder / database.name)
    writer = Thread(target=store.writer.run, name="writer")
    writer.start()
    reader = store.reader()
    heads_ms, claim_ms, commit_ms = [], [], []
    try:
        run = next(run for run in reader.open_runs() if run.name == backlog.NAME)
        queued = sum(tally.count for tally in reader.tallies(run.id) if tally.state is State.QUEUED)
        for _ in range(min(queued, 100)):
            heads_ms.append(_timed_ms(lambda: reader.heads(run.id, HEADS)))
            claim, commit = _claimed(store, reader.heads(run.id, 1)[0])
            claim_ms.append(claim)
            commit_ms.append(commit)
    finally:
        reader.close()
        store.writer.stop()
        writer.join()
        store.close()
        shutil.rmtree(folder)
    return {
        "heads_ms": statistics.median(heads_ms),
        "claim_ms": statistics.median(claim_ms),
        "commit_ms": statistics.median(commit_ms),
    }


def _claimed(store: Store, head: Head) -> tuple[float, float]:
    """Claim a task: what the statements took, and all of it until it was on disk, in ms."""
    claim_ms = 0.0

    def claim(tx: Writes) -> None:
        nonlocal claim_ms
        claim_ms = _timed_ms(lambda: tx.claim([Wanted(head.task_id, head.attempt, None)]))

    whole_ms = _timed_ms(lambda: store.writer.submit(claim).result())
    return claim_ms, whole_ms


def _timed_ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1e3


def tell(costs: list[Cost], found: Findings) -> None:
    few = costs[0]
    lines = (
        (f"The first {HEADS} of the queue read", "heads_ms", "ms", "flat"),
        ("One task claimed, the statements", "claim_ms", "ms", "flat"),
        ("One task claimed, until it is on disk", "commit_ms", "ms", "flat"),
        ("Resident memory of battd", "resident_mb", "MB", "120 MB"),
        ("Its proportional part (PSS)", "proportional_mb", "MB", "120 MB"),
        ("The most it ever had", "peak_mb", "MB", "120 MB"),
        ("GET /v1/service", "service_ms", "ms", "flat"),
        ("battctl status, the whole program", "status_ms", "ms", "flat"),
    )
    for what, name, unit, hold in lines:
        for cost in costs:
            part = f"{what}; peer: with {few.queued} queued"
            found.add(part, f"{cost.queued:,} queued", getattr(cost, name), unit, peer=getattr(few, name), hold=hold)
