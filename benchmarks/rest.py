"""What a battd with one slot takes while it has nothing to do."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from figures import Findings
from services import Services

from batt_supervisor.pool import proc

SETTLE_S = 5.0
LOOK_S = 5.0


def measure(services: Services, found: Findings) -> None:
    part = f"A one-slot battd at rest, after {SETTLE_S:g} s"
    with services.battd(slots=1) as daemon:
        time.sleep(SETTLE_S)
        pids = [daemon.pid, *proc.descendants(daemon.pid)]
        threads = {pid: len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids}
        own, others = threads.pop(daemon.pid), list(threads.values())
        before = _cpu_s(pids)
        time.sleep(LOOK_S)
        used_s = _cpu_s(pids) - before
        found.add(
            part, "threads and processes", own + sum(others), "", hold="14",
            note=f"battd {own} threads, {len(others)} other processes with {sum(others)}",
        )  # fmt: skip
        resident = proc.resident_bytes(daemon.pid)
        found.add(part, "resident memory of battd", resident / 1e6, "MB", hold="80 MB")
        found.add(
            part, "CPU", 100 * used_s / LOOK_S, "% of a core", hold="1 %", note=f"all processes, over {LOOK_S:g} s"
        )


def _cpu_s(pids: list[int]) -> float:
    """CPU seconds of all threads of these processes; finer than the ticks of /proc/PID/stat."""
    total_ns = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                total_ns += int((thread / "schedstat").read_bytes().split()[0])
    return total_ns / 1e9
