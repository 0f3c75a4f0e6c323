"""The peers of the wall benchmark, as a program: pebble and multiprocessing as they are. Prints JSON.

A program of its own for two reasons: battd's parts, which the benchmark has imported, change constants of pebble; and a
process that multiprocessing spawns imports its parent's main module once more, which therefore imports next to nothing.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

STARTS = 5
GIVE_UP_S = 40.0


def ask(what: str, *words: object) -> Any:
    """Run this program for one of its measurements."""
    command = [sys.executable, __file__, what, *map(str, words)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


# multiprocessing's spawn


def answer(channel: Connection, modules: list[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    channel.send("here")
    channel.recv()


def private_kib(pid: int) -> int:
    """Memory that no other process has a share in."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.MULTILINE)))


def spawn(*modules: str) -> dict[str, list[float]]:
    """Milliseconds from asking for a process that imports the modules to its first answer; its private KiB."""
    context = multiprocessing.get_context("spawn")
    took_ms: list[float] = []
    private: list[float] = []
    for _ in range(STARTS):
        ours, theirs = context.Pipe()
        began = time.perf_counter()
        process = context.Process(target=answer, args=(theirs, list(modules)))
        process.start()
        ours.recv()
        took_ms.append((time.perf_counter() - began) * 1000)
        private.append(private_kib(process.pid or 0))
        ours.send("go")
        process.join()
    return {"ms": took_ms, "private_kib": private}


# pebble


def anew(tasks: str) -> float:
    """Milliseconds a task when each of them gets a new worker."""
    import hangs
    import pebble

    with pebble.ProcessPool(max_workers=1, max_tasks=1) as pool:
        pool.schedule(hangs.who, args=(0,)).result()
        began = time.perf_counter()
        for future in [pool.schedule(hangs.who, args=(0,)) for _ in range(int(tasks))]:
            future.result()
        return (time.perf_counter() - began) * 1000 / int(tasks)


def hung(kind: str, notes: str, tasks: str, limit_s: str) -> dict[str, Any]:
    """How late each of some hung tasks died, and when all were over; given up, it counts as ended."""
    import hangs
    import pebble
    from watching import Watch, calls

    count, limit = int(tasks), float(limit_s)
    with pebble.ProcessPool(max_workers=count) as pool:
        _finish([pool.schedule(hangs.who, args=(0,)) for _ in range(count * 2)], 10.0)
        futures = [pool.schedule(getattr(hangs, kind), args=(notes,), timeout=limit) for _ in range(count)]
        called = calls(Path(notes), count)
        first = min(called.values())
        with Watch(called) as watch:
            watch.wait(called, GIVE_UP_S)
            gave_up = time.monotonic()
            _finish(futures, max(0.1, first + GIVE_UP_S - gave_up))
            cleared_s = time.monotonic() - first
            late_ms = [(watch.ended.get(pid, gave_up) - at - limit) * 1000 for pid, at in called.items()]
        pool.stop()
    return {"late_ms": late_ms, "cleared_s": cleared_s}


def _finish(futures: Sequence[Any], within_s: float) -> None:
    """Wait for the end of all of them, whatever it is."""
    until = time.monotonic() + within_s
    while not all(future.done() for future in futures) and time.monotonic() < until:
        time.sleep(0.005)


if __name__ == "__main__":
    print(json.dumps({"spawn": spawn, "anew": anew, "hung": hung}[sys.argv[1]](*sys.argv[2:])))
