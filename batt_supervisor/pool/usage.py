"""What the process tree of a running attempt uses at this moment."""

from __future__ import annotations

from dataclasses import dataclass

from batt_supervisor.pool import proc


@dataclass(frozen=True, slots=True)
class Tree:
    """A process and all its descendants.

    Attributes:
        cpu_s: CPU seconds of all of them since each one's start, those of children they have waited for included.
        memory_bytes: Memory they hold. Where that matters it is exact, each one's part only of what is shared;
            otherwise every resident page of each, which is more.
        threads: Threads and processes.
    """

    cpu_s: float
    memory_bytes: int
    threads: int


def measure(root: int, memory_limit: int | None) -> Tree | None:
    """Measure a tree; None when its root is gone.

    Args:
        memory_limit: Exact figures matter above it; None: never. They cost a walk through every page table.
    """
    found = proc.stat(root)
    if found is None:
        return None
    pids = [root, *proc.descendants(root)]
    cpu_s, threads, resident = 0.0, 0, 0
    for pid in pids:
        one = found if pid == root else proc.stat(pid)
        if one is not None:
            cpu_s += one.cpu_s
            threads += one.threads
            resident += proc.resident_bytes(pid)
    if memory_limit is not None and resident > memory_limit:
        resident = sum(map(proc.memory_bytes, pids))
    return Tree(cpu_s, resident, threads)
