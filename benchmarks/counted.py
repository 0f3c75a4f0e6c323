"""The task that the wall benchmark runs while workers are killed: nothing, but for telling that it ran, and alone."""

from __future__ import annotations

import fcntl
import os

from hangs import note


def once(folder: str, number: int, size: int) -> int | str:
    """The number, or a text of `size` characters.

    The lock on byte `number` of a file is taken away by the kernel when its process dies, and not before: not to get it
    means that another execution of the same task is alive.
    """
    with open(f"{folder}/locks", "ab") as locks:
        try:
            fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            note(f"{folder}/overlaps", number)
        note(f"{folder}/calls", number)
        if not size:
            return number
        note(f"{folder}/large", number, os.getpid())
        return "x" * size
