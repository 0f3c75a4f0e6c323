"""A preloaded module by whose hooks the nursery dies in the very moment in which it has forked a worker."""

from __future__ import annotations

import os
import signal
import time

PATH = os.environ.get("ZOO_FORKS", "")
"""If this file exists, it is taken away, and the next fork ends badly; the child's pid is then beside it."""


class _Fork:
    parent = 0  # of the fork that is to end badly


def _before() -> None:
    _Fork.parent = 0
    if os.path.exists(PATH):
        os.unlink(PATH)
        _Fork.parent = os.getpid()


def _in_parent() -> None:
    if _Fork.parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _in_child() -> None:
    if not _Fork.parent:
        return
    while os.getppid() == _Fork.parent:
        time.sleep(0.001)
    with open(f"{PATH}.new", "w") as out:
        out.write(str(os.getpid()))
    os.rename(f"{PATH}.new", f"{PATH}.pid")


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
