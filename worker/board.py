"""Memory that a worker and its supervisor share: one writes what it calls and what came of it, the other looks.

No message is needed for either, so nothing can be half sent, and what a worker had finished before it was killed is not
lost with it.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterator
from time import monotonic

_BEGUN = struct.Struct("<Q")
_CALLED = struct.Struct("<Q")
_CALL = struct.Struct("<ddd")
_BEATS = struct.Struct("<Q")
_PROGRESS = struct.Struct("<dd")
_FILLED = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")

_CALLED_AT = 8
_CALL_AT = 16
_BEATS_AT = 40
_PROGRESS_AT = 48
_FILLED_AT = 64
_WITHDRAWN_AT = 72
_LOG = struct.Struct("<I")
_LOG_AT = 76
_RETURNED = struct.Struct("<Q")
_RETURNED_AT = 80
_RETURN = struct.Struct("<d")
_RETURN_AT = 88
_TRAY = mmap.PAGESIZE

PACK_MAX = 16
"""Most requests in one pack: that many reports of `report.FRAME_MAX` bytes fit on the tray."""

SIZE = _TRAY + 64 * mmap.PAGESIZE


_lock = threading.Lock()


def _fence() -> None:
    """Nothing after this is done before what stands before it.

    Taking a lock is an atomic instruction, on x86 a full barrier; elsewhere it is one in practice, for the thousands of
    instructions that the interpreter needs in between.
    """
    with _lock:
        pass


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

    def begin(self, serial: int) -> bool:
        """Say that attempt `serial` is next; False: the supervisor has taken back what was not begun, this one, too.

        Each side writes its own word before it reads the other's, so at least one of them sees the other: an attempt
        that the supervisor believes not begun is not begun.
        """
        self.write_begin(serial)
        _fence()
        return not self._page[_WITHDRAWN_AT]

    def write_begin(self, serial: int) -> None:
        """Say that attempt `serial` is next: what it takes to find its function comes first."""
        _PROGRESS.pack_into(self._page, _PROGRESS_AT, 0.0, 0.0)
        _BEGUN.pack_into(self._page, 0, serial)

    def write_call(self, serial: int, cpu_s: float, waited_s: float = 0.0) -> None:
        """Say that attempt `serial` has just been called.

        Args:
            cpu_s: CPU seconds that the worker had used before it.
            waited_s: Seconds that its main thread had waited for a CPU before it.
        """
        _CALL.pack_into(self._page, _CALL_AT, monotonic(), cpu_s, waited_s)
        _CALLED.pack_into(self._page, _CALLED_AT, serial)  # last: it makes the rest valid

    def write_return(self, serial: int) -> None:
        """Say that nothing is left of attempt `serial` but to write its result to the disk, which may be full."""
        _RETURN.pack_into(self._page, _RETURN_AT, monotonic())
        _RETURNED.pack_into(self._page, _RETURNED_AT, serial)  # last: it makes the rest valid

    def write_log(self, number: int) -> None:
        """Say that output goes to the worker's log of this number from now on."""
        _LOG.pack_into(self._page, _LOG_AT, number)

    def read_log(self) -> int:
        """The number of the worker's log that output goes to."""
        number: int = _LOG.unpack_from(self._page, _LOG_AT)[0]
        return number

    def write_beat(self) -> None:
        """Say that the task is alive, though it may use no CPU."""
        _BEATS.pack_into(self._page, _BEATS_AT, (_BEATS.unpack_from(self._page, _BEATS_AT)[0] + 1) % 2**64)

    def write_progress(self, done: float, total: float) -> None:
        """Say how far the task has come; also a sign of life."""
        _PROGRESS.pack_into(self._page, _PROGRESS_AT, done, total)
        self.write_beat()

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

    def withdraw(self) -> int:
        """Take back what has not been begun of a request; the serial of the last attempt that may have been begun.

        That one has been, or the worker leaves it and answers its request; those behind it never are.
        """
        self._page[_WITHDRAWN_AT] = 1
        _fence()
        begun: int = _BEGUN.unpack_from(self._page, 0)[0]
        return begun

    def clear(self) -> None:
        """Empty the tray, before a request is sent: what lies there is of the one before."""
        self._page[_WITHDRAWN_AT] = 0
        _FILLED.pack_into(self._page, _FILLED_AT, 0)

    def read_call(self, serial: int) -> tuple[float, float, float] | None:
        """When attempt `serial` was called (monotonic seconds), and what `write_call` was told of the time before it.

        None: not yet, or another one has been called since.
        """
        if _CALLED.unpack_from(self._page, _CALLED_AT)[0] != serial:
            return None
        called_s, cpu_s, waited_s = _CALL.unpack_from(self._page, _CALL_AT)
        return called_s, cpu_s, waited_s

    def read_return(self, serial: int) -> float | None:
        """When `write_return` was called for attempt `serial`, monotonic; None: it was not, or for another since."""
        if _RETURNED.unpack_from(self._page, _RETURNED_AT)[0] != serial:
            return None
        returned_s: float = _RETURN.unpack_from(self._page, _RETURN_AT)[0]
        return returned_s

    def read_beats(self) -> int:
        """A number that changes with every sign of life."""
        beats: int = _BEATS.unpack_from(self._page, _BEATS_AT)[0]
        return beats

    def read_progress(self) -> tuple[float, float] | None:
        """How far the attempt has come, and of how much; None where it has not said."""
        done, total = _PROGRESS.unpack_from(self._page, _PROGRESS_AT)
        return (done, total) if total > 0 else None

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
