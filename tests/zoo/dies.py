"""Tasks that end their process."""

import ctypes
import os
import signal
import sys
import threading
import time

from zoo import kin


def exit_with(code: int) -> None:
    os._exit(code)


def sys_exit(code: int = 3) -> None:
    sys.exit(code)


def kill_itself(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def overflow_the_stack() -> None:
    sys.setrecursionlimit(2**30)
    nested = []
    for _ in range(10**6):
        nested = [nested]
    repr(nested)


def die_the_first_time(mark: str) -> str:
    """Killed in the first attempt, well in the second."""
    if not os.path.exists(mark):
        with open(mark, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def kill_its_group() -> None:
    """Whoever shares its process group goes as well."""
    os.killpg(0, signal.SIGKILL)


def signal_parent(number: int = signal.SIGKILL) -> str:
    """Kill, or stop, what the worker was forked from; never anything but a nursery."""
    parent = os.getppid()
    with open(f"/proc/{parent}/cmdline", "rb") as file:
        words = file.read()
    if b"nursery" not in words:
        raise RuntimeError(f"the parent, {parent}, is no nursery: {words!r}")
    os.kill(parent, number)
    time.sleep(0.5)  # killed with its parent in the meantime, as it should be
    return "outlived it"


def kill_parent_once(mark: str) -> str:
    if not os.path.exists(mark):
        with open(mark, "w"):
            pass
        signal_parent()
    return "second"


def exit_in_a_thread(code: int) -> None:
    """The process leaves while its main thread is at work."""
    threading.Thread(target=os._exit, args=(code,), daemon=True).start()
    time.sleep(kin.LIFETIME_S)


def become(program: str, *words: str) -> None:
    """Another program takes the worker's place."""
    os.execv(program, [program, *words])


def free_twice() -> None:
    """What a broken C extension does: glibc finds out, and aborts."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    held = libc.malloc(64)
    for _ in range(3):
        libc.free(held)
    libc.abort()
