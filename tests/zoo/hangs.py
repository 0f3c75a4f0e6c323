"""Tasks that do not come back, or not before long: the machine is not to be occupied for ever if nobody ends them."""

import collections
import ctypes
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from zoo import kin


def _for_ever() -> Iterator[None]:
    """As near to it as is safe."""
    until = time.monotonic() + kin.LIFETIME_S
    while time.monotonic() < until:
        yield


def spin() -> None:
    for _ in _for_ever():
        pass


def sleep_for_ever() -> None:
    for _ in _for_ever():
        time.sleep(kin.LIFETIME_S)


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in _for_ever():
        time.sleep(0.01)


def ignore_every_signal() -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    for _ in _for_ever():
        pass


def block_every_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    for _ in _for_ever():
        time.sleep(0.01)


def loop_in_c() -> None:
    """Never returns to the interpreter, so that no Python handler ever runs."""
    collections.deque(itertools.repeat(None, 10**10), maxlen=0)


def sleep_with_the_gil() -> None:
    """In C, idle, and no other thread of the process may run. A signal ends the call, so it is made again."""
    sleep = ctypes.PyDLL(None).sleep
    for _ in _for_ever():
        sleep(kin.LIFETIME_S)


def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=kin.LIFETIME_S)


def two_locks() -> None:
    """Two threads, each of which waits for what the other one holds."""
    first, second = threading.Lock(), threading.Lock()
    both_hold_one = threading.Barrier(2)

    def take(mine: threading.Lock, other: threading.Lock) -> None:
        with mine:
            both_hold_one.wait(kin.LIFETIME_S)
            other.acquire(timeout=kin.LIFETIME_S)

    threading.Thread(target=take, args=(first, second), daemon=True).start()
    take(second, first)


def pool_that_waits_for_itself() -> int:
    """The only thread of a pool waits for what only it could do."""
    pool = ThreadPoolExecutor(1)
    return pool.submit(lambda: pool.submit(int).result(kin.LIFETIME_S)).result(kin.LIFETIME_S)


def processes_that_wait_for_nothing(path: str) -> list[None]:
    """A nested pool of processes that wait for a word that nobody says."""
    read, _write = os.pipe()
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(_listen, [path] * 2, [read] * 2))


def _listen(path: str, fd: int) -> None:
    kin.be_mortal()
    kin.note(path, os.getpid())
    os.read(fd, 1)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    sleep_for_ever()


def swallow_everything() -> None:
    """Catches what is raised in it, and goes on."""
    until = time.monotonic() + kin.LIFETIME_S
    while time.monotonic() < until:
        try:
            while time.monotonic() < until:
                pass
        except BaseException:
            continue


def sometimes(hang: bool) -> str:
    if hang:
        spin()
    return "came back"


def lively(seconds: float, pause_s: float) -> str:
    """Idle, but for a sign of life now and then."""
    from worker import guard

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        guard.heartbeat()
        time.sleep(pause_s)
    return "lived"
