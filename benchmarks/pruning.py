"""How long the writer is kept by retention: an ended run of many tasks is removed while somebody else writes.

A database is filled through the store's own operations (every task claimed, settled with a result, and with output in
a log), once with small values and once with values of 15 kB, the largest that are kept in rows. Then the run is removed
in the store's steps with the pauses that battd makes, and the file is shortened; meanwhile another caller has an event
written every few milliseconds, and waits for it. What is measured is each transaction of the writer, from its begin to
the end of its commit and of the checkpoint that may follow, and what the other caller waited. Nothing is asserted but
that nothing is left.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

from figures import Findings, quantile, table

from batt_supervisor.core.lifecycle import Event
from batt_supervisor.core.model import Claim, Ending, Limits, Outcome, Room, Tries, Work, WorkerId
from batt_supervisor.core.retry import Verdict
from batt_supervisor.store import Store, values
from batt_supervisor.store.protocol import Writer as AnyWriter
from batt_supervisor.store.writer import Writer

HERE = Path(__file__).parent

BATCH = 500


class Timed:
    """The store's writer with a clock around each transaction."""

    def __init__(self, writer: Writer) -> None:
        self.took_s: list[float] = []
        group = writer._group

        def timed(first: list[object]) -> bool:
            began = time.perf_counter()
            stopping: bool = group(first)  # type: ignore[arg-type]
            self.took_s.append(time.perf_counter() - began)
            return stopping

        writer._group = timed  # type: ignore[assignment,method-assign]


class Bystander:
    """Somebody else who writes, a little at a time."""

    def __init__(self, writer: AnyWriter) -> None:
        self.waited_s: list[float] = []
        self._writer, self._stop = writer, threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        while not self._stop.wait(0.005):
            began = time.perf_counter()
            self._writer.submit(lambda tx: tx.note("bench", "somebody else")).result()
            self.waited_s.append(time.perf_counter() - began)

    def leave(self) -> None:
        self._stop.set()
        self._thread.join()


def fill(store: Store, tasks: int, value: str) -> int:
    """An ended run of so many tasks, each with this value; its number."""
    work = Work(Room("/"), Limits(timeout_s=60.0, max_attempts=1, retry_delay_s=1.0), function="bench:work")
    run = values.NewRun("bench", None, "/", {}, None, (values.NewStage("only", work),))
    write = store.writer.submit
    run_id = write(lambda tx: tx.create_run(run)).result().id
    for start in range(0, tasks, BATCH):
        part = [values.NewTask(0, f'{{"n":{number}}}') for number in range(start, min(start + BATCH, tasks))]
        write(lambda tx, start=start, part=part: tx.add_tasks(run_id, start, part)).result()  # type: ignore[misc]
    write(lambda tx: tx.seal(run_id)).result()
    for first in range(1, tasks + 1, BATCH):
        worker = WorkerId(7, 1, f"worker-7-{first // 5_000}.log")
        ids = range(first, min(first + BATCH, tasks + 1))
        wanted = [values.Wanted(task, 0, worker) for task in ids]
        ending, verdict = Ending(Outcome.OK, value=value, wall_s=0.01, cpu_s=0.01), Verdict(Event.SUCCEED, Tries())
        place = values.Place(worker, 0, 10)
        ends = [values.Settlement(Claim(task, 1), ending, verdict, place) for task in ids]
        write(lambda tx, wanted=wanted: tx.claim(wanted))  # type: ignore[misc]
        write(lambda tx, ends=ends: tx.settle(ends)).result()  # type: ignore[misc]
    return run_id


def measure(name: str, tasks: int, value: str, findings: Findings) -> None:
    folder = HERE.parent / ".bench"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as state:
        store = Store(Path(state) / "queue.db")
        timed = Timed(store.writer)
        thread = threading.Thread(target=store.writer.run)
        thread.start()
        try:
            _measure(name, store, timed, fill(store, tasks, value), findings)
        finally:
            store.writer.stop()
            thread.join()
            store.close()


def _measure(name: str, store: Store, timed: Timed, run_id: int, findings: Findings) -> None:
    size = store.path.stat().st_size
    bystander = Bystander(store.writer)
    timed.took_s.clear()
    began = time.perf_counter()
    store.writer.submit(lambda tx: tx.remove_run(run_id, "bench")).result()
    removed, steps = 0, 0
    while True:
        sent = time.perf_counter()
        step = store.writer.submit(lambda tx: tx.remove_some(run_id)).result()
        removed, steps = removed + step.tasks, steps + 1
        time.sleep(time.perf_counter() - sent)
        if step.done:
            break
    took, removing = time.perf_counter() - began, list(timed.took_s)
    timed.took_s.clear()
    while True:
        sent = time.perf_counter()
        done = store.writer.submit(lambda tx: tx.shrink()).result()
        time.sleep(time.perf_counter() - sent)
        if done:
            break
    shrinking = list(timed.took_s)
    bystander.leave()
    part = f"{removed:,} tasks, {name}"
    findings.add(part, "removal", took, "s", note=f"{steps} steps of {removed / steps:.0f} tasks")
    findings.add(part, "longest transaction of it", 1000 * max(removing), "ms", hold="50 ms")
    findings.add(
        part, "p99, p50", 1000 * quantile(removing, 0.99), "ms", note=f"{1000 * quantile(removing, 0.5):.1f} ms"
    )
    findings.add(part, "longest transaction that shortens", 1000 * max(shrinking), "ms", hold="50 ms")
    findings.add(part, "longest wait of another caller", 1000 * max(bystander.waited_s), "ms", hold="100 ms")
    waited = bystander.waited_s
    findings.add(
        part, "p99, p50 of it", 1000 * quantile(waited, 0.99), "ms", note=f"{1000 * quantile(waited, 0.5):.1f} ms"
    )
    findings.add(part, "file before, after", size / 2**20, "MiB", note=f"{store.path.stat().st_size / 2**20:.1f} MiB")
    reader = store.reader()
    findings.expect(not reader.going() and not reader.runs(1), f"{name}: something of the run is left")
    findings.expect(reader.space().free_bytes < max(size / 2, 8 * 2**20), f"{name}: the file was not shortened")
    reader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="How long the writer is kept while an ended run is removed.")
    parser.add_argument("--tasks", type=int, default=200_000, help="with small values (default: %(default)s)")
    parser.add_argument("--large", type=int, default=20_000, help="with values of 15 kB (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    given = parser.parse_args()
    findings = Findings()
    measure("small values", given.tasks, "12345", findings)
    measure("15 kB values", given.large, json.dumps("x" * 14_990), findings)
    if given.json:
        print(json.dumps({"figures": [asdict(one) for one in findings.figures], "wrong": findings.wrong}))
    else:
        print(
            f"removal of an ended run while somebody else writes; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        print(table(findings.figures))
        for wrong in findings.wrong:
            print(f"WRONG: {wrong}")
    raise SystemExit(1 if findings.wrong else 0)


if __name__ == "__main__":
    main()
