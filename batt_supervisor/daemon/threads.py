"""battd's threads: all started at boot, none allowed to end or to hang unnoticed (promise 11)."""

from __future__ import annotations

import os
import select
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog

from batt_supervisor.daemon.faults import Point, no_fault

AGAIN_S: Final = 0.1
"""Between two tries to start a thread."""

log = structlog.get_logger("battd")

EXIT_HALF_DEAD: Final = 70
"""EX_SOFTWARE: the service manager starts battd anew, and recovery does the rest."""


def give_up(reason: str) -> NoReturn:
    """End the process at once, without any of the orderly steps that a broken process can hang in."""
    try:
        # Straight to the descriptor, and only if it takes it at once: a log that is full or gone must not keep battd.
        text = f"battd: {reason}; leaving with exit code {EXIT_HALF_DEAD}\n".encode(errors="replace")
        writable = select.poll()
        writable.register(2, select.POLLOUT)
        if writable.poll(1000):
            os.write(2, text[-4096:])
    except OSError:
        pass
    finally:
        os._exit(EXIT_HALF_DEAD)


@dataclass(frozen=True, slots=True)
class Watched:
    """Something that must go round.

    Attributes:
        beat_s: Gives the monotonic time of its last round.
    """

    name: str
    beat_s: Callable[[], float]


class Crewmen:
    """The threads beside the main one.

    Args:
        point: Called by each thread at first, with its name.

    Attributes:
        leaving: Set when battd goes down, and threads may end.
    """

    def __init__(self, point: Point = no_fault) -> None:
        self.leaving = False
        self._point = point
        self._threads: list[threading.Thread] = []

    def start(self, name: str, body: Callable[[], None]) -> None:
        """Start a thread whose end, unless battd is leaving, is the end of battd."""
        while True:
            thread = threading.Thread(target=self._live, args=(name, body), name=name, daemon=True)
            try:
                thread.start()
                break
            except RuntimeError:  # somebody has taken what `room.wait` found free
                log.warning("no room to start yet", reason=f"the thread {name!r} was refused")
                time.sleep(AGAIN_S)
        self._threads.append(thread)

    def _live(self, name: str, body: Callable[[], None]) -> None:
        try:
            self._point(name)
            body()
        except BaseException:
            give_up(f"{traceback.format_exc()}thread {name!r} ended by an error")
        if not self.leaving:
            give_up(f"thread {name!r} ended unexpectedly")

    def join(self, timeout_s: float) -> list[str]:
        """Wait for all of them together; the names of those that still run then."""
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]


class Watchdog:
    """Ends battd when something in it has not gone round for too long. One for each thread that looks.

    Args:
        now_s: Monotonic; from then on it counts.
    """

    def __init__(self, watched: list[Watched], now_s: float) -> None:
        self._watched = watched
        self._looked_s = now_s

    def look(self, limit_s: float) -> None:
        """See that all of them have gone round within `limit_s`."""
        now_s = time.monotonic()
        paused_s, self._looked_s = now_s - self._looked_s, now_s
        if paused_s > limit_s:
            return  # this thread stood still itself: the whole process did, as a rule, or the machine under it
        for one in self._watched:
            silent_s = now_s - one.beat_s()
            if silent_s > limit_s:
                give_up(f"{one.name!r} has not gone round for {silent_s:.1f} s (watchdog: {limit_s:g} s)")
