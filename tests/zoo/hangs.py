"""Tasks that do not come back."""

import collections
import itertools
import os
import signal
import threading
import time


def spin() -> None:
    while True:
        pass


def sleep_for_ever() -> None:
    while True:
        time.sleep(3600)


def ignore_every_signal() -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def loop_in_c() -> None:
    """Never returns to the interpreter, so that no Python handler ever runs."""
    collections.deque(itertools.repeat(None), maxlen=0)


def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def swallow_everything() -> None:
    """Catches what is raised in it, and goes on."""
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


def sometimes(hang: bool) -> str:
    while hang:
        pass
    return "came back"
