"""No-op tasks a second: durable ones through battd, beside bare pebble, in one run, as ratios.

Each round measures every candidate once, one after another, so that a machine that grows slower meets all alike;
the ratios are taken round by round. Every candidate has as many worker processes as the others and is warmed up first.

- battd: submitted through the API in one bulk submission, run by the service, every claim and every result in a synced
  SQLite transaction; from the first request to the end of the run.
- pebble, one in flight: one-worker pools, each given its next task when it has answered the last; nothing is durable.
- pebble, pipelined: the same pools, all tasks queued at once.
- celery + redis, where both are installed: prefork workers, as it is unless told otherwise; redis appends each change
  to its file and syncs that every second. From the first submission to the last result. A fifth of the tasks, for it
  takes that much longer.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

import brokered
import pebble
from noop import noop

from batt_supervisor.client import Client
from batt_supervisor.errors import Unreachable
from batt_supervisor.wire import RunSpec, StageSpec, TaskSpec

HERE = Path(__file__).parent

OURS = "battd, durable, end to end"


def through_battd(client: Client, tasks: int) -> float:
    """Seconds from the first request of a submission to the end of its run."""
    stage = StageSpec(name="noop", function="noop:noop", timeout_s=60)
    spec = RunSpec(name="throughput", cwd=str(HERE), stages=(stage,))
    began = time.perf_counter()
    created = client.submit(spec, (TaskSpec(args=[number]) for number in range(tasks)))
    while (run := client.run(created.run)).ended_at_ms is None:
        time.sleep(0.01)
    took = time.perf_counter() - began
    if run.outcomes != {"ok": tasks}:
        raise SystemExit(f"not every task succeeded: {run.outcomes}")
    return took


def one_in_flight(pools: list[pebble.ProcessPool], tasks: int) -> float:
    """Seconds for pebble when each pool is given its next task only after it has answered the last."""
    answered: SimpleQueue[int] = SimpleQueue()

    def give(place: int) -> None:
        pools[place].schedule(noop, args=(place,)).add_done_callback(lambda future: answered.put(place))

    began = time.perf_counter()
    for place in range(len(pools)):
        give(place)
    for left in range(tasks - len(pools), -len(pools), -1):
        place = answered.get()
        if left > 0:
            give(place)
    return time.perf_counter() - began


def pipelined(pools: list[pebble.ProcessPool], tasks: int) -> float:
    """Seconds for pebble when all tasks are queued at once."""
    began = time.perf_counter()
    futures = [pools[number % len(pools)].schedule(noop, args=(number,)) for number in range(tasks)]
    for future in futures:
        future.result()
    return time.perf_counter() - began


@contextmanager
def battd(workers: int, synchronous: str) -> Iterator[Client]:
    """A battd of its own, on the disk that the clone is on."""
    folder = HERE.parent / ".bench"
    folder.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "batt_supervisor.daemon.main"]
    with (
        tempfile.TemporaryDirectory(dir=folder) as state,
        started(program, workers, synchronous, state) as (client, _),
    ):
        yield client


@contextmanager
def started(
    program: list[str], workers: int, synchronous: str, state: str
) -> Iterator[tuple[Client, subprocess.Popen[bytes]]]:
    """A battd that is this program, with its files in the folder `state`."""
    with tempfile.TemporaryDirectory() as short:
        config = Path(state) / "battd.toml"
        config.write_text(f'slots = {workers}\nmax_tasks = 0\nsynchronous = "{synchronous}"\nlog_level = "warning"\n')
        socket = Path(short) / "s"
        own = ["--config", str(config), "--state-dir", f"{state}/state", "--socket", str(socket)]
        service = subprocess.Popen([*program, *own])
        try:
            client = Client(socket)
            _wait(client, service)
            yield client, service
            client.close()
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(60)


def _wait(client: Client, service: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and service.poll() is None:
        try:
            client.service()
            return
        except Unreachable:
            time.sleep(0.05)
    raise SystemExit("battd did not come up")


@contextmanager
def pebble_pools(workers: int) -> Iterator[list[pebble.ProcessPool]]:
    pools = [pebble.ProcessPool(max_workers=1) for _ in range(workers)]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.stop()
            pool.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of no-op tasks: battd beside bare pebble.")
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks of one measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each candidate (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--synchronous", choices=["full", "normal"], default="full", help="battd's own setting")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    given = parser.parse_args()

    with ExitStack() as stack:
        client = stack.enter_context(battd(given.workers, given.synchronous))
        pools = stack.enter_context(pebble_pools(given.workers))
        candidates: dict[str, Callable[[], float]] = {
            OURS: lambda: given.tasks / through_battd(client, given.tasks),
            "pebble, one in flight": lambda: given.tasks / one_in_flight(pools, given.tasks),
            "pebble, pipelined": lambda: given.tasks / pipelined(pools, given.tasks),
        }
        if not (missing := brokered.missing()):
            celery = stack.enter_context(brokered.celery(given.workers, HERE.parent / ".bench"))
            fewer = max(given.tasks // 5, 1)
            candidates["celery + redis"] = lambda: fewer / celery(fewer)
        through_battd(client, 2_000)
        one_in_flight(pools, 2_000)
        rates: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(given.rounds):
            for name, measure in candidates.items():
                rates[name].append(measure())
    report(rates, missing, given)


def report(rates: dict[str, list[float]], missing: str, given: argparse.Namespace) -> None:
    ours = rates[OURS]
    ratios = {
        name: statistics.median(mine / theirs for mine, theirs in zip(ours, found, strict=True))
        for name, found in rates.items()
        if found is not ours
    }
    if given.json:
        print(json.dumps({"tasks_per_s": rates, "battd_over": ratios, "workers": given.workers, "missing": missing}))
        return
    print(
        f"{given.tasks} no-op tasks, {given.workers} workers, {given.rounds} rounds; synchronous={given.synchronous}; "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    for name, found in rates.items():
        print(f"{name:<28} {statistics.median(found):>9,.0f}/s  (min {min(found):,.0f}, max {max(found):,.0f})")
    for name, ratio in ratios.items():
        print(f"battd / {name:<20} {ratio:>9.2f}  (median of the rounds' ratios)")
    if missing:
        print(f"celery + redis was not measured: {missing}")


if __name__ == "__main__":
    main()
