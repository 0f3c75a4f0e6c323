"""Tasks that take memory and CPU time, all within bounds of their own."""

import mmap
import os
import time

from zoo import kin

MEMORY_MAX = 2 * 2**30
STEP = 16 * 2**20


def and_free(size: int = 200 * 2**20) -> int:
    held = bytearray(size)
    for place in range(0, size, 4096):
        held[place] = 1
    return len(held)


def burn(seconds: float) -> float:
    """Use so much CPU."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass
    return seconds


def burn_on(core: int, seconds: float) -> float:
    """The same, on one core only."""
    os.sched_setaffinity(0, {core})
    return burn(seconds)


def _fill(size: int, pause_s: float = 0.0) -> list[bytearray]:
    """So much memory, every page of it written, in steps."""
    held = []
    for _ in range(min(size, MEMORY_MAX) // STEP):
        held.append(bytearray(b"x") * STEP)
        time.sleep(pause_s)
    return held


def hog(size: int = MEMORY_MAX, pause_s: float = 0.01, stay_s: float = 10.0) -> int:
    """Grow, and stay for a while."""
    held = _fill(size, pause_s)
    time.sleep(stay_s)
    return len(held)


def hog_at_once(size: int = MEMORY_MAX // 2) -> int:
    """All of it as fast as the machine gives it."""
    held = bytearray(b"x") * min(size, MEMORY_MAX)
    time.sleep(10.0)
    return len(held)


def hog_in_children(path: str, count: int, size: int) -> None:
    """Each child has only a part of it."""

    def grow() -> None:
        held = _fill(min(size, MEMORY_MAX // count), 0.005)
        time.sleep(10.0)
        del held

    for _ in range(count):
        kin.fork(path, grow)
    time.sleep(12.0)


def hog_shared(size: int = MEMORY_MAX // 2) -> int:
    """Memory that is a file's: no process's own, and nobody frees it while it is mapped."""
    fd = os.memfd_create("zoo")
    os.ftruncate(fd, min(size, MEMORY_MAX))
    page = mmap.mmap(fd, min(size, MEMORY_MAX))
    for place in range(0, len(page), 4096):
        page[place] = 1
        if place % STEP == 0:
            time.sleep(0.005)
    time.sleep(10.0)
    return len(page)


_kept: list[bytearray] = []


def leak(size: int) -> int:
    """More with every call."""
    if sum(map(len, _kept)) < MEMORY_MAX:
        _kept.append(bytearray(b"x") * size)
    return os.getpid()


def spin_in_children(path: str, count: int) -> None:
    """The task itself does nothing."""
    for _ in range(count):
        kin.fork(path, kin.spin)
    time.sleep(kin.LIFETIME_S)


def spin_in_short_lived_children(path: str, each_s: float) -> None:
    """No process of it lives long; together they never end."""
    until = time.monotonic() + kin.LIFETIME_S
    while time.monotonic() < until:
        os.waitpid(kin.fork(path, lambda: burn(each_s)), 0)
