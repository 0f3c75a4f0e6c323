"""Tasks that leave processes behind. Each writes the pids of what it started into a file, one to a line.

Those whose name says only what they leave take how they themselves end: `return`, `raise`, `die`, `exit` or `hang`.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

from zoo import hangs, kin

_SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"


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
            time.sleep(kin.LIFETIME_S)
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
    hangs.spin()


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
    code = "import sys, time; held = bytearray(b'x') * (700 << 20); print('x', flush=True); time.sleep(100)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read(1)
    _note(path, child.pid)
    hangs.spin()


def a_fork_that_returns(number: int) -> int:
    """Forks, and lets the child come back from the task as if it were the worker."""
    os.fork()
    return number


def _end(how: str) -> str:
    match how:
        case "raise":
            raise ValueError("as it was told")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(0)
        case "hang":
            hangs.sleep_for_ever()
    return "returned"


def a_child(path: str, how: str) -> str:
    kin.fork(path, kin.rest)
    return _end(how)


def a_child_that_listens_to_nothing(path: str, how: str) -> str:
    kin.fork(path, hangs.block_every_signal)
    return _end(how)


def a_stopped_child(path: str, how: str) -> str:
    kin.fork(path, hangs.stop_itself)
    return _end(how)


def a_session(path: str, how: str) -> str:
    def leave() -> None:
        os.setsid()
        kin.rest()

    kin.fork(path, leave)
    return _end(how)


def a_daemon(path: str, how: str) -> str:
    """Forked twice, in a session of its own, its environment empty, its parent gone, its descriptors closed."""

    def leave() -> None:
        os.setsid()
        kin.fork(path, lambda: (os.closerange(0, 1024), os.chdir("/"), kin.sleeper()))

    os.waitpid(kin.fork(path, leave), 0)
    return _end(how)


def a_daemon_that_was_untied(path: str, how: str) -> str:
    """The worker adopts nothing any more, nor does it die with its parent."""
    untie()
    return a_daemon(path, how)


def untie() -> None:
    prctl = ctypes.CDLL(None).prctl
    prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
    prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def a_reader_of_its_pipe(path: str, how: str) -> str:
    """A grandchild that holds the pipe its parent was to be read through: who reads to the end waits for it."""
    command = f"sleep {kin.LIFETIME_S} & echo $!"
    child = subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.PIPE)
    assert child.stdout is not None
    kin.note(path, int(child.stdout.readline()))
    child.wait()
    if how == "hang":
        child.stdout.read()
    child.stdout.close()
    return _end(how)


def children_of_children(path: str, how: str, depth: int = 3, width: int = 3) -> str:
    def grow(left: int) -> None:
        if left:
            for _ in range(width):
                kin.fork(path, lambda: grow(left - 1))
        kin.rest()

    before = _noted(path)
    for _ in range(width):
        kin.fork(path, lambda: grow(depth - 1))
    _wait_for(path, before + sum(width**level for level in range(1, depth + 1)))
    return _end(how)


def _noted(path: str) -> int:
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as file:
        return file.read().count(b"\n")


def _wait_for(path: str, count: int) -> None:
    """Wait until so many processes have been noted."""
    until = time.monotonic() + 20
    while _noted(path) < count and time.monotonic() < until:
        time.sleep(0.005)


def a_crowd(path: str, how: str, count: int = 200) -> str:
    for _ in range(count):
        kin.fork(path, kin.rest)
    return _end(how)


def zombies(path: str, how: str, count: int = 50) -> str:
    """Children that have ended, and that nobody has waited for."""
    for _ in range(count):
        kin.fork(path, lambda: None)
    return _end(how)


def a_child_of_a_thread(path: str, how: str) -> str:
    """A child whose parent is a thread that lives on."""
    forked = threading.Event()

    def work() -> None:
        kin.fork(path, kin.rest)
        forked.set()
        time.sleep(kin.LIFETIME_S)

    threading.Thread(target=work, daemon=True).start()
    forked.wait()
    return _end(how)


def two_that_raise_each_other(path: str, how: str, lives: int = 200) -> str:
    """Each watches the other, and starts it again when it is gone; in sessions of their own, and not without end."""
    read, write = os.pipe()
    os.write(write, b"x" * lives)
    os.set_blocking(read, False)
    until = time.monotonic() + kin.LIFETIME_S

    def life(other: int) -> None:
        if os.getsid(0) != os.getpid():
            os.setsid()
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM}:
            signal.signal(number, signal.SIG_IGN)
        while time.monotonic() < until:
            if other == 0 or not kin.started(other) or not _alive(other):
                try:
                    os.read(read, 1)
                except BlockingIOError:
                    return
                other = kin.fork(path, lambda: life(os.getppid()))
            time.sleep(0.001)

    before = _noted(path)
    kin.fork(path, lambda: life(0))
    _wait_for(path, before + 2)
    return _end(how)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return False
    return text[text.rindex(b")") + 2 : text.rindex(b")") + 3] not in b"ZX"


def other_groups(path: str, how: str) -> str:
    """The worker goes into another process group, where it may; one child leads one, another one leads a session."""
    for change in (os.setsid, lambda: os.setpgid(0, 0)):
        try:
            change()
        except PermissionError:
            continue  # it leads a session already
    kin.fork(path, lambda: (os.setpgid(0, 0), kin.rest()))
    return a_session(path, how)


def somebody_elses(path: str, how: str, uid: int = 65533) -> str:
    """A child of another user: whoever is not root may not signal it, nor read its environment."""
    kin.fork(path, lambda: (os.setgid(uid), os.setuid(uid), kin.rest()))
    return _end(how)


def one_of_a_kind_each(path: str, how: str) -> str:
    """Every kind of process there is here, at once."""
    for leave in (a_child, a_child_that_listens_to_nothing, a_stopped_child, a_session, a_daemon, a_reader_of_its_pipe):
        leave(path, "return")
    children_of_children(path, "return", 2, 2)
    two_that_raise_each_other(path, "return")
    return _end(how)


def its_own_pid_and_a_child(path: str) -> int:
    """A child that is allowed to stay; the worker's pid."""
    kin.fork(path, kin.rest)
    return os.getpid()
