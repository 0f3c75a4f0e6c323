"""Tasks that leave processes behind. Each writes the pids of what it started into a file, one to a line."""

import os
import signal
import subprocess
import sys
import time

_SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


def _note(path: str, pid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{pid}\n".encode())
    os.close(fd)


def _start(path: str, **given: object) -> None:
    child = subprocess.Popen([sys.executable, "-c", _SLEEPER], **given)  # type: ignore[call-overload]
    child.returncode = 0  # no ResourceWarning for what is left on purpose
    _note(path, child.pid)


def _double_fork(path: str) -> None:
    """A grandchild in a session of its own whose parent is gone."""
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(read)
            _note(path, os.getpid())
            os.write(write, b"x")
            os.close(write)
            time.sleep(3600)
        os._exit(0)
    os.close(write)
    os.waitpid(first, 0)
    os.read(read, 1)
    os.close(read)


def _all(path: str) -> None:
    _start(path)
    _start(path, start_new_session=True)
    _start(path, start_new_session=True, env={})
    _double_fork(path)


def and_returns(path: str) -> str:
    _all(path)
    return "left four"


def and_raises(path: str) -> None:
    _all(path)
    raise ValueError("left four")


def and_dies(path: str) -> None:
    _all(path)
    os.kill(os.getpid(), signal.SIGKILL)


def and_exits(path: str) -> None:
    _all(path)
    os._exit(0)


def and_hangs(path: str) -> None:
    _all(path)
    while True:
        pass


def fork_that_returns_too() -> str:
    """Both processes come back from the call."""
    return "child" if os.fork() == 0 else "parent"


def nested_pool(count: int) -> int:
    """What people do: a pool in the task."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as pool:
        return sum(pool.map(abs, range(count)))


def a_heavy_child_and_hangs(path: str) -> None:
    """The child has so much memory that it takes a while to go, after it was killed."""
    code = "import sys, time; held = bytearray(b'x') * (700 << 20); print('x', flush=True); time.sleep(3600)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read(1)
    _note(path, child.pid)
    while True:
        pass


def a_fork_that_returns(number: int) -> int:
    """Forks, and lets the child come back from the task as if it were the worker."""
    os.fork()
    return number
