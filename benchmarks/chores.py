"""The tasks of the exhaustion benchmark. Standard library only: workers and the peers' processes import it.

Each returns a value that can be checked, and the CPU seconds that it has used.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

CPU_S = 0.1
THREADS = 4
BLOCK_BYTES = 300_000_000
PAGE_BYTES = 4096

Value = tuple[int, float]


def split(number: int) -> Value:
    """Use 0.1 s of CPU in a thread pool of the task's own, as the users' inlining does."""
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(_part, range(number * THREADS, (number + 1) * THREADS)))
    return sum(part for part, _ in parts), sum(used_s for _, used_s in parts)


def _part(number: int) -> Value:
    return number, _use(CPU_S / THREADS)


def touch(number: int) -> Value:
    """Hold 300 MB, every page of it written, while 0.1 s of CPU is used, the writing included."""
    began = time.thread_time()
    block = bytearray(BLOCK_BYTES)
    pages = len(range(0, BLOCK_BYTES, PAGE_BYTES))
    block[::PAGE_BYTES] = b"\1" * pages
    _use(CPU_S - (time.thread_time() - began))
    return number + sum(block[::PAGE_BYTES]), time.thread_time() - began


def _use(cpu_s: float) -> float:
    """Use so much CPU in this thread; how much it was."""
    began = time.thread_time()
    while (used_s := time.thread_time() - began) < cpu_s:
        sum(range(1000))
    return used_s


def expected(function: str, number: int) -> int:
    """The first part of a task's value."""
    if function == "touch":
        return number + len(range(0, BLOCK_BYTES, PAGE_BYTES))
    return sum(range(number * THREADS, (number + 1) * THREADS))
