"""Tasks that leave the process other than they found it, and one that looks."""

import builtins
import decimal
import gc
import json
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from typing import Any

from zoo import kin


def everything() -> str:
    os.chdir("/usr")
    os.environ["POLLUTED"] = "yes"
    os.environ.pop("HOME", None)
    os.umask(0)
    sys.setrecursionlimit(5000)
    sys.path.insert(0, "/polluted")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 3600)
    sys.stdout = open(os.devnull, "w")
    warnings.simplefilter("ignore")
    return "done"


def probe() -> dict[str, Any]:
    mask = os.umask(0o022)
    os.umask(mask)
    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "polluted": os.environ.get("POLLUTED"),
        "home": "HOME" in os.environ,
        "umask": mask,
        "recursion": sys.getrecursionlimit(),
        "path": "/polluted" in sys.path,
        "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_IGN,
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "stdout": sys.stdout is sys.__stdout__,
    }


def new_environment() -> str:
    """Another object in the place of os.environ."""
    os.environ = {"POLLUTED": "whole"}  # type: ignore[assignment] # noqa: B003
    return "done"


def leak_a_thread(daemon: bool = False) -> int:
    threading.Thread(target=time.sleep, args=(kin.LIFETIME_S,), name="leaked", daemon=daemon).start()
    return os.getpid()


def close_descriptors(first: int = 3) -> str:
    os.closerange(first, 1024)
    return "closed"


def close_output() -> str:
    os.close(1)
    os.close(2)
    return "closed"


def remove_directory() -> str:
    """The directory it runs in is gone behind it."""
    os.rmdir(os.getcwd())
    return "removed"


def numbers() -> list[float]:
    return [random.random() for _ in range(3)]


def close_input() -> str:
    sys.stdin.close()
    return "done"


# What belongs to the process itself


def the_process(nice: int = 5) -> int:
    """What `everything` leaves out; the worker's pid."""
    time.sleep(PAUSE_S)
    if nice:
        os.nice(nice)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    locale.setlocale(locale.LC_ALL, "C")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM})
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 3600)
    warnings.filters.insert(0, ("ignore", None, UserWarning, None, 0))  # type: ignore[attr-defined]
    warnings.filterwarnings("error", category=UserWarning)
    sys.path.clear()
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]
    sys.setrecursionlimit(200)
    os.environ.clear()
    os.environ["POLLUTED"] = "yes"
    os.umask(0o777)
    os.chdir("/usr")
    return os.getpid()


def look(_item: Any = None) -> dict[str, Any]:
    """Everything that `the_process` and `limits` change, as it is now."""
    time.sleep(PAUSE_S)
    mask = os.umask(0o022)
    os.umask(mask)
    with warnings.catch_warnings(record=True) as heard:
        warnings.warn("said", UserWarning, stacklevel=1)
    return {
        "pid": os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)),
        "locale": locale.setlocale(locale.LC_ALL),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "handlers": [_name(signal.getsignal(number)) for number in (10, 13, 14, 15, 17)],
        "timers": [signal.getitimer(timer)[0] > 0 for timer in (0, 1, 2)],
        "warned": len(heard),
        "filters": len(warnings.filters),
        "path": sys.path,
        "streams": [stream is not None and stream.writable() for stream in (sys.stdout, sys.stderr)],
        "input": sys.stdin is not None,
        "recursion": sys.getrecursionlimit(),
        "variables": sorted(os.environ),
        "polluted": os.environ.get("POLLUTED"),
        "umask": mask,
        "cwd": os.getcwd(),
        "limits": [resource.getrlimit(limit) for limit in _LIMITS],
        "group": (os.getpgrp() == os.getpid(), os.getsid(0) == os.getpid()),
    }


PAUSE_S = 0.03
"""So long each of these takes: enough for the next one to go to another worker."""


def _name(handler: Any) -> str:
    return getattr(handler, "__name__", str(handler))


_LIMITS = (
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_AS,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_CORE,
    resource.RLIMIT_STACK,
)


def limits(name: str, hard: bool = True) -> int:
    """Lower a limit of the worker's own, so far that it hurts; the worker's pid."""
    time.sleep(PAUSE_S)
    used = int(time.process_time()) + 1
    wanted = {"NOFILE": 3, "AS": 2**20, "NPROC": 1, "FSIZE": 0, "CPU": used, "STACK": 2**16, "DATA": 2**20}[name]
    limit = getattr(resource, f"RLIMIT_{name}")
    resource.setrlimit(limit, (wanted, wanted if hard else resource.getrlimit(limit)[1]))
    return os.getpid()


# What belongs to the interpreter


def the_interpreter() -> int:
    time.sleep(PAUSE_S)
    gc.disable()
    gc.set_threshold(1, 1, 1)
    sys.setswitchinterval(10.0)
    sys.setprofile(lambda frame, event, arg: None)
    sys.settrace(lambda frame, event, arg: None)
    sys.excepthook = sys.unraisablehook = threading.excepthook = lambda *error: None
    return os.getpid()


def look_at_the_interpreter(_item: Any = None) -> dict[str, Any]:
    time.sleep(PAUSE_S)
    return {
        "pid": os.getpid(),
        "gc": (gc.isenabled(), gc.get_threshold()),
        "switch": sys.getswitchinterval(),
        "traced": (sys.getprofile() is not None, sys.gettrace() is not None),
        "hooks": [_name(hook) for hook in (sys.excepthook, sys.unraisablehook, threading.excepthook)],
    }


def the_library() -> int:
    time.sleep(PAUSE_S)
    logging.disable(logging.CRITICAL)
    decimal.getcontext().prec = 2
    socket.setdefaulttimeout(0.001)
    tempfile.tempdir = "/nowhere"
    return os.getpid()


def look_at_the_library(_item: Any = None) -> dict[str, Any]:
    time.sleep(PAUSE_S)
    return {
        "pid": os.getpid(),
        "logging": logging.root.manager.disable,
        "precision": decimal.getcontext().prec,
        "timeout": socket.getdefaulttimeout(),
        "tempdir": tempfile.tempdir,
    }


def patch_the_library() -> int:
    """Functions that the worker itself may use after the task, replaced for good."""

    def broken(*args: Any, **given: Any) -> Any:
        raise RuntimeError("patched by a task")

    for module, name in ((time, "monotonic"), (json, "dumps"), (os, "getpid"), (os, "write"), (builtins, "open")):
        setattr(module, name, broken)
    return 1


def empty_modules() -> str:
    sys.modules.clear()
    return "emptied"


# Descriptors


def scribble(pattern: str, first: int = 0) -> str:
    """Write into whatever can be written to; the pattern in hexadecimal."""
    for fd in range(first, 1024):
        try:
            os.set_blocking(fd, False)
            os.write(fd, bytes.fromhex(pattern) * 64)
        except OSError:
            continue
    return "scribbled"


def leak_descriptors(count: int = 30) -> int:
    for _ in range(count):
        os.open("/dev/null", os.O_RDONLY)
    return os.getpid()


def open_to_the_limit() -> int:
    """No descriptor is left for anybody in this process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            os.open("/dev/null", os.O_RDONLY)
    except OSError:
        return os.getpid()


def block_its_input() -> str:
    """Its standard descriptors are somebody else's: a socket, a pipe whose reader is gone, a folder."""
    left, _ = socket.socketpair()
    read, write = os.pipe()
    os.close(read)
    os.dup2(left.fileno(), 0)
    os.dup2(write, 1)
    os.dup2(os.open("/", os.O_RDONLY), 2)
    return "replaced"
