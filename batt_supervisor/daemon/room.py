"""Waits for room before battd starts its threads, and makes what it starts small.

Supervisors that start at once would otherwise each take some of the threads that all of them need, and none would get
enough. So each takes them all, in a turn of the ledger, or none and waits.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from batt_supervisor.config import Settings
from batt_supervisor.core.admission import Free
from batt_supervisor.core.headroom import Entry, Others
from batt_supervisor.core.levels import scaled
from batt_supervisor.core.model import NOTHING, Space
from batt_supervisor.headroom.ledger import Ledger
from batt_supervisor.headroom.machine import Headroom

OWN_THREADS: Final = 5
"""Threads and processes beside the main thread and the slots: store, API, builder, reaper, a nursery."""

SLOT_THREADS: Final = 4
"""Of one slot: the three of its pool, and its worker."""

OWN_MEMORY: Final = 48 * 2**20
"""Bytes that a nursery and the first workers take, preloaded modules apart: some 14 MiB of its own, and 3 to 4 of each
worker, were seen in /proc/PID/smaps_rollup; the rest is for the pages of files that they are the first to read."""

LOOK_S: Final = 0.1

TELL_S: Final = 5.0

M_ARENA_MAX: Final = -8
"""Of mallopt(3)."""

STACK: Final = 2 * 2**20
"""Bytes of address space for each thread's stack, 8 MiB unless told otherwise: under `ulimit -v` they add up."""

log = structlog.get_logger("battd")


def make_small() -> None:
    """Keep the address space of battd's own threads small, before the first of them: arenas of malloc, and stacks.

    Under `ulimit -v` each thread would otherwise take up to 72 MiB of it, and battd has three for each slot.
    """
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
    threading.stack_size(STACK)


def wait(headroom: Headroom, ledger: Ledger, settings: Settings, tell: Callable[[str], None]) -> int:
    """Wait until there is room for battd with one slot at least, and take it; how many slots there is room for.

    Args:
        tell: Called with what is waited for, now and then.
    """
    told_s = float("-inf")
    while True:
        with ledger.turn():
            # In this order: what the others note as taken, and promise no longer, has to show in the reading.
            others = ledger.others()
            free = headroom.read(time.monotonic()).free()
            reserve = reserve_of(settings, free, others)
            for slots in range(settings.slots, 0, -1):
                need = needed(slots, settings.need_threads)
                if fits(need, free, others, reserve):
                    ledger.note(Entry(promised=need, appetite=need))
                    return slots
        now_s = time.monotonic()
        if now_s - told_s >= TELL_S:
            told_s = now_s
            reason = refusal(need, free, others, reserve)
            log.warning("no room to start yet", reason=reason)
            tell(reason)
        time.sleep(LOOK_S)


def needed(slots: int, task_threads: int) -> Space:
    """What battd takes with so many slots and a standby, and what one task is to find free beside it."""
    return Space(OWN_MEMORY, OWN_THREADS + SLOT_THREADS * (slots + 1) + task_threads)


def reserve_of(settings: Settings, free: Free, others: Others) -> Space:
    """What stays free. The first supervisor of all may use it; others that wait as it does have taken nothing yet."""
    started = any(one.entry != Entry() for one in others.holders)
    return scaled(settings.policy().reserve, free.total) if started else NOTHING


def fits(need: Space, free: Free, others: Others, reserve: Space) -> bool:
    """Whether that is free."""
    left = free.space - others.promised - reserve
    return need.memory_bytes <= left.memory_bytes and need.threads <= left.threads


def refusal(need: Space, free: Free, others: Others, reserve: Space) -> str:
    """What is waited for, in figures."""
    return (
        f"{need.threads} threads and {need.memory_bytes >> 20} MiB needed; {free.space.threads} threads free "
        f"({free.threads_limit}), {free.space.memory_bytes >> 20} MiB free ({free.memory_limit}); "
        f"{others.promised.threads} threads and {others.promised.memory_bytes >> 20} MiB promised by "
        f"{len(others.holders)} other supervisors, {reserve.threads} and {reserve.memory_bytes >> 20} MiB in reserve"
    )
