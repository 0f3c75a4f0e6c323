"""Tasks that leave the process other than they found it, and one that looks."""

import os
import random
import signal
import sys
import threading
import time
import warnings
from typing import Any


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
    threading.Thread(target=time.sleep, args=(3600,), name="leaked", daemon=daemon).start()
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
