"""A page of memory that a worker and its supervisor share: the worker writes when it calls, the supervisor looks.

No message is needed for it, so nothing can be half sent, and a worker that is killed leaves it as it was.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_SERIAL = struct.Struct("<Q")
_CALL = struct.Struct("<dd")
SIZE = mmap.PAGESIZE


def create() -> int:
    """A new board's file descriptor, not inherited unless it is passed on."""
    fd = os.memfd_create("batt-board")
    os.ftruncate(fd, SIZE)
    return fd


class Board:
    """A board mapped into this process.

    Args:
        fd: From `create`; it may be closed afterwards.
    """

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, SIZE)

    def write_call(self, serial: int, cpu_s: float) -> None:
        """Say that attempt `serial` has just been called, the worker having used `cpu_s` seconds of CPU before it."""
        _CALL.pack_into(self._page, 8, time.monotonic(), cpu_s)
        _SERIAL.pack_into(self._page, 0, serial)  # last: it makes the rest valid

    def read_call(self, serial: int) -> tuple[float, float] | None:
        """When attempt `serial` was called (monotonic seconds) and the CPU seconds before it; None: not yet."""
        if _SERIAL.unpack_from(self._page, 0)[0] != serial:
            return None
        called_s, cpu_s = _CALL.unpack_from(self._page, 8)
        return called_s, cpu_s

    def close(self) -> None:
        self._page.close()
