"""What a worker's start costs, and what it costs to have a new one for every task."""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import time
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue

from figures import Findings, quantile
from peers import STARTS, ask, private_kib
from services import PRELOAD, Services, wait_at_rest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Room
from batt_supervisor.pool.launch import Launcher
from batt_supervisor.pool.nursery import Nursery, Places, Settings
from batt_supervisor.pool.process import Process, Registry
from batt_supervisor.pool.single import SinglePool
from batt_supervisor.testing import eventually
from worker import entry

OURS = 30
"""Starts of our own in a round."""

TASKS_ANEW = 150
"""Tasks for each slot, each with a worker of its own; the service that keeps its workers is given ten times as many."""

PEER_TASKS = 20


def measure_start(services: Services, found: Findings, rounds: int) -> float:
    """Milliseconds that a start takes, median."""
    part = f"Start of a worker that has {', '.join(PRELOAD)}"
    took_ms, private = _ours(services.folder, OURS * rounds)
    peer = ask("spawn", *PRELOAD)
    median = statistics.median(took_ms)
    found.add(
        part, "ready, p50", median, "ms", peer=statistics.median(peer["ms"]), hold="30 ms",
        note=f"{len(took_ms)} starts: pool told that it may, nursery, pebble, first answer; peer: {STARTS} of "
        "multiprocessing's spawn",
    )  # fmt: skip
    found.add(part, "ready, p95", quantile(took_ms, 0.95), "ms", peer=max(peer["ms"]), note="peer: worst")
    found.add(
        part, "private memory when idle", statistics.median(private) / 1024, "MiB",
        peer=statistics.median(peer["private_kib"]) / 1024, hold="6 MB",
    )  # fmt: skip
    return median


def _ours(folder: Path, count: int) -> tuple[list[float], list[int]]:
    """Milliseconds from asking a slot's pool for a worker until it answers, and its private KiB."""
    places = Places(logs=folder / "logs", results=folder / "results", token="bench", socket="", value_max=1 << 20)
    for made in (places.logs, places.results):
        made.mkdir()
    nursery = Nursery(Room("/"), places, Settings(PRELOAD, dict(os.environ)), 1, time.monotonic())
    nursery.start()
    launched: SimpleQueue[Process] = SimpleQueue()
    launcher = Launcher(
        places=places,
        registry=Registry(),
        room=Room("/"),
        nursery=lambda room: nursery,
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE),
        launched=launched.put,
    )
    pool: SinglePool | None = None
    try:
        eventually("the nursery is ready", lambda: (nursery.look(), nursery.ready or nursery.trouble)[1])
        if nursery.trouble:
            raise AssertionError(f"the nursery did not come up: {nursery.trouble}")
        said = "".join(path.read_text() for path in places.logs.iterdir())
        if "cannot be imported" in said:
            raise AssertionError(f"the nursery could not preload: {said}")
        launcher.not_before_s = float("inf")
        pool = SinglePool(launcher)
        _ = pool.active  # starts its threads
        times = [_one_start(pool, launcher, launched) for _ in range(count + 3)]
        return [took for took, _ in times[3:]], [private for _, private in times[3:]]
    finally:
        nursery.retire()
        if pool is not None:
            pool.stop()
            pool.join()
        eventually("the nursery has gone", nursery.gone)


def _one_start(pool: SinglePool, launcher: Launcher, launched: SimpleQueue[Process]) -> tuple[float, int]:
    began = time.perf_counter()
    launcher.not_before_s = 0.0
    pool.look()
    process = launched.get(timeout=30)
    greeting: Future[None] = pool.schedule(
        entry.serve, args=(json.dumps({"to": process.number, "items": []}).encode(),)
    )
    greeting.result(30)
    took_ms = (time.perf_counter() - began) * 1000
    private = private_kib(process.id.pid)
    launcher.not_before_s = float("inf")  # the next one is to start when it is asked for, and not before
    process.signal(signal.SIGKILL)
    process.wait(30)
    process.close()
    return took_ms, private


def measure_recycling(services: Services, found: Findings, start_ms: float, rounds: int) -> None:
    part = "A new worker for every task (max_tasks = 1)"
    peer = statistics.median(ask("anew", PEER_TASKS) for _ in range(rounds))
    for slots in (1, 2):
        kept = statistics.median(_through_battd(services, slots, 0, found) for _ in range(rounds))
        anew = statistics.median(_through_battd(services, slots, 1, found) for _ in range(rounds))
        # The standby takes its turn, too: while one place gets its next worker, another one works.
        places = slots + 1
        found.add(
            part, f"{slots} slot{'s' * (slots > 1)}: wall / tasks", anew, "ms", peer=peer if slots == 1 else None,
            note=f"{kept:.2f} ms with workers that are kept",
        )  # fmt: skip
        found.add(
            part, "  of one place, less the start", anew * places - kept * slots - start_ms, "ms",
            note=f"wall x {places} / tasks, for the standby takes turns; less {slots} x kept, less p50 of a start",
        )  # fmt: skip


def _through_battd(services: Services, slots: int, max_tasks: int, found: Findings) -> float:
    """Milliseconds for one no-op task, from the seal of the run to its end."""
    tasks = TASKS_ANEW * slots * (1 if max_tasks else 10)
    with services.battd(slots=slots, max_tasks=max_tasks, preload=PRELOAD) as daemon:
        daemon.wait(daemon.submit("hangs:who", list(range(10))))
        wait_at_rest(daemon)
        run = daemon.submit("hangs:who", list(range(tasks)))
        info = daemon.wait(run)
        found.expect(info.counts == {State.SUCCEEDED: tasks}, f"recycling: tasks ended as {info.counts}")
        workers = len({task.value for task in daemon.results(run)})
        found.expect(not max_tasks or workers == tasks, f"max_tasks = 1: {tasks} tasks had {workers} workers")
        assert info.ended_at_ms is not None
        assert info.sealed_at_ms is not None
        return (info.ended_at_ms - info.sealed_at_ms) / tasks
