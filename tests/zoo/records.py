"""Tasks that tell from within when they ran, and whether they were alone."""

import fcntl
import os
import time


def _append(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def interval(folder: str, name: str, seconds: float) -> str:
    """Stay for a while, noting when it began and ended; another attempt at the same time is an `overlap`.

    A lock on a file says so: the kernel takes it away from a process that is killed, and not a moment before.
    """
    with open(f"{folder}/{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _append(f"{folder}/log", f"{name} overlap {time.monotonic()} {os.getpid()}")
            raise
        _append(f"{folder}/log", f"{name} start {time.monotonic()} {os.getpid()}")
        time.sleep(seconds)
        _append(f"{folder}/log", f"{name} end {time.monotonic()} {os.getpid()}")
    return name


def count(path: str, name: str) -> str:
    """Note that it was called."""
    _append(path, f"{name} {os.getpid()}")
    return name


def fail_in_intervals(folder: str, name: str, seconds: float) -> None:
    interval(folder, name, seconds)
    raise ValueError("as it should")
