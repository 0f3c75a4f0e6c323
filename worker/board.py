"""Memory that a worker and its supervisor share: one writes what it calls and what came of it, the other looks.

No message is needed for either, so nothing can be half sent, and what a worker had finished before it was killed is not
lost with it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator

_BEGUN = struct.Struct("<Q")
_CALLED = struct.Struct("<Q")
_CALL = struct.Struct("<dd")
_FILLED = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")

_CALLED_AT = 8
_CALL_AT = 16
_FILLED_AT = 64
_TRAY = mmap.PAGESIZE

PACK_MAX = 16
"""Most requests in one pack: that many reports of `report.FRAME_MAX` bytes fit on the tray."""

SIZE = _TRAY + 64 * mmap.PAGESIZE


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

    # The worker writes

    def write_begin(self, serial: int) -> None:
        """Say that attempt `serial` is next: what it takes to find its function comes first."""
        _BEGUN.pack_into(self._page, 0, serial)

    def write_call(self, serial: int, cpu_s: float) -> None:
        """Say that attempt `serial` has just been called, the worker having used `cpu_s` seconds of CPU before it."""
        _CALL.pack_into(self._page, _CALL_AT, time.monotonic(), cpu_s)
        _CALLED.pack_into(self._page, _CALLED_AT, serial)  # last: it makes the rest valid

    def write_report(self, data: bytes) -> None:
        """Put the report of an attempt on the tray, behind those that lie there.

        Raises:
            ValueError: It does not fit.
        """
        start = _TRAY + _FILLED.unpack_from(self._page, _FILLED_AT)[0]
        end = start + _LENGTH.size + len(data)
        if end > SIZE:
            raise ValueError(f"a report of {len(data)} bytes does not fit on the tray")
        _LENGTH.pack_into(self._page, start, len(data))
        self._page[start + _LENGTH.size : end] = data
        _FILLED.pack_into(self._page, _FILLED_AT, end - _TRAY)  # last: it makes the report valid

    # The supervisor clears and reads

    def clear(self) -> None:
        """Empty the tray, before a request is sent: what lies there is of the one before."""
        _FILLED.pack_into(self._page, _FILLED_AT, 0)

    def read_call(self, serial: int) -> tuple[float, float] | None:
        """When attempt `serial` was called (monotonic seconds) and the CPU seconds before it.

        None: not yet, or another one has been called since.
        """
        if _CALLED.unpack_from(self._page, _CALLED_AT)[0] != serial:
            return None
        called_s, cpu_s = _CALL.unpack_from(self._page, _CALL_AT)
        return called_s, cpu_s

    def read_begun(self, serial: int) -> bool:
        """Whether attempt `serial` is the last that was begun."""
        return bool(_BEGUN.unpack_from(self._page, 0)[0] == serial)

    def read_reports(self, start: int) -> Iterator[tuple[bytes, int]]:
        """Reports from `start` on (0, or the last position given), each with the position behind it."""
        end = min(_FILLED.unpack_from(self._page, _FILLED_AT)[0], SIZE - _TRAY)
        while start + _LENGTH.size <= end:
            size = _LENGTH.unpack_from(self._page, _TRAY + start)[0]
            first = _TRAY + start + _LENGTH.size
            start += _LENGTH.size + size
            if start > end:
                return  # not written by us: whatever follows cannot be read
            yield self._page[first : first + size], start

    def close(self) -> None:
        self._page.close()
