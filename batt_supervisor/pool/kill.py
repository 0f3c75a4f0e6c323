"""Ends a worker with everything below it, and tells what the tree had used.

Stopped first, so that nothing forks while the tree is walked; descendants before the worker, so that what escaped its
parent is still found below its subreaper. Where the worker has a control group, that ends what the walk has missed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from batt_supervisor.pool import proc
from batt_supervisor.pool.group import Group
from worker import family
from worker.family import end_tree

__all__ = ["Usage", "end", "end_if_same", "end_strays", "end_tree"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree had used when it was ended.

    Attributes:
        cpu_s: CPU seconds of all its processes, from their start.
        waited_s: Seconds for which its busiest thread was ready to run and had no CPU.
        peak_memory_bytes: Sum of each process's largest resident set.
        threads: Threads and processes that it had then.
    """

    cpu_s: float
    waited_s: float
    peak_memory_bytes: int
    threads: int


def end(root: int, group: Group | None) -> Usage:
    """Kill a worker and all its descendants with SIGKILL; what they had used until then."""
    frozen = family.freeze(root)
    usage = _usage(frozen)
    family.finish(frozen)
    if group is not None and any(pid not in frozen for pid in group.members()):
        group.kill()
    return usage


def end_strays(known: Iterable[int]) -> int:
    """Kill and reap children of this process that are none of `known`; how many there were.

    battd is a subreaper, so what a dead nursery leaves behind becomes its child.
    """
    known = set(known)
    ended = 0
    for pid in proc.children(os.getpid()):
        if pid in known:
            continue
        ended += 1
        found = proc.stat(pid)
        if found is not None and found.state != "Z":
            end_tree(pid)
        try:
            os.waitpid(pid, os.WNOHANG)  # a later round reaps what has not ended yet
        except ChildProcessError:
            continue
    return ended


def end_if_same(pid: int, started: int) -> bool:
    """Kill the tree of a process known from another life of battd, unless its pid belongs to another process by now."""
    found = proc.stat(pid)
    if found is None or found.started != started:
        return False
    end_tree(pid)
    return True


def _usage(pids: Iterable[int]) -> Usage:
    cpu_s, peak, threads = 0.0, 0, 0
    busiest = (0.0, 0.0)
    for pid in pids:
        found = proc.stat(pid)
        if found is not None:
            cpu_s += found.cpu_s
            threads += found.threads
            peak += proc.peak_memory_bytes(pid) or 0
            busiest = max([busiest, *proc.waited(pid)], key=sum)
    return Usage(cpu_s, busiest[1], peak, threads)
