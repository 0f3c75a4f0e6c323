"""Fault points: places at which tests, by the variable BATT_FAULTS, have battd die, hang or be killed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from batt_supervisor.clock import Clock, Now
from batt_supervisor.errors import BadConfiguration, nearest

POINTS: Final[Mapping[str, str]] = {
    "writer": "its thread begins",
    "api": "its thread begins",
    "builder": "its thread begins",
    "reaper": "its thread begins",
    "loop": "it is about to go round for the first time",
    "boot": "the state directory is taken, nothing is recovered yet",
    "recover": "attempts of an earlier battd are found, and not written off yet",
    "submit": "the writer has written rows of a submission, and not committed them",
    "claim": "the writer has written claims, and not committed them",
    "settle": "the writer has written ends of attempts, and not committed them",
    "submitted": "that is committed and synced, and nobody told yet",
    "claimed": "that is committed and synced, and nobody told yet",
    "settled": "that is committed and synced, and nobody told yet",
    "send": "the claim is on disk, the loop is about to send it to a worker",
    "exit": "the loop has seen the end of an attempt, and not handed it to the writer",
    "drain": "battd was told to end, and the loop looks whether anything is left to wait for",
}
"""Every fault point, and where it is passed."""

HANG_S: Final = 3600.0

Point = Callable[[str], None]
"""What is called with its name where a fault point is passed."""


def no_fault(name: str) -> None:
    """A fault point of whoever was given none."""


@dataclass(slots=True)
class Fault:
    """What is to happen at a point.

    Attributes:
        what: `die` raises there, `hang` stays there, `kill` sends SIGKILL to the whole process.
        at: The passing, counted from 1, at which it happens.
        passed: How often the point has been passed. Each point is passed by one thread only.
    """

    what: Literal["die", "hang", "kill"]
    at: int = 1
    passed: int = 0


class WrongClock:
    """A clock whose wall time is wrong.

    Args:
        right: The clock that it is made of.
        by: A file with the seconds that are added, read each time; one that is missing or empty adds none.
    """

    def __init__(self, right: Clock, by: Path) -> None:
        self._right, self._by = right, by

    def read(self) -> Now:
        now = self._right.read()
        return replace(now, wall_ms=now.wall_ms + round(float(_text_of(self._by) or 0) * 1000))


class Faults:
    """The fault points of this process.

    Args:
        wanted: What is to happen, by the point's name; nothing where none is named.
        clock_by: The file that says by how much the wall clock is wrong, if it is to be.
    """

    def __init__(self, wanted: Mapping[str, Fault], clock_by: Path | None = None) -> None:
        self._wanted = dict(wanted)
        self._clock_by = clock_by

    def clock(self, right: Clock) -> Clock:
        """The clock that the process is to go by."""
        return right if self._clock_by is None else WrongClock(right, self._clock_by)

    def point(self, name: str) -> None:
        """Pass a point; may not return.

        Raises:
            RuntimeError: It was told to `die` there.
        """
        fault = self._wanted.get(name)
        if fault is None:
            return
        fault.passed += 1
        if fault.passed != fault.at:
            return
        match fault.what:
            case "die":
                raise RuntimeError(f"told to die at {name!r} by BATT_FAULTS")
            case "hang":
                time.sleep(HANG_S)
            case "kill":
                # Straight to the descriptor: nothing that is kept back would ever be written.
                os.write(2, f"battd: killed at {name!r}, passing {fault.at}, by BATT_FAULTS\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)


def read(environ: Mapping[str, str]) -> Faults:
    """The faults that BATT_FAULTS asks for: `writer=die,loop=hang,settle=kill@3`, or `@FILE` with such a text in it.

    A file that is missing or empty asks for none. With one, each start of battd by a service manager can be given other
    faults. `clock=/PATH` has seconds added to the wall clock, as many as that file says at each reading.

    Raises:
        BadConfiguration: There is no such point, or nothing like that can happen there; or the file cannot be read.
    """
    text = environ.get("BATT_FAULTS", "")
    if text.startswith("@"):
        text = _text_of(Path(text[1:]))
    wanted: dict[str, Fault] = {}
    clock_by: Path | None = None
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, what = part.partition("=")
        if name == "clock":
            clock_by = Path(what)
            if not clock_by.is_absolute():
                raise BadConfiguration(f"BATT_FAULTS: {part!r} names no file; it is clock=/PATH")
            continue
        if name not in POINTS:
            raise BadConfiguration(f"BATT_FAULTS: there is no fault point {name!r}{nearest(name, POINTS)}")
        if name in wanted:
            raise BadConfiguration(f"BATT_FAULTS: the fault point {name!r} is named twice")
        wanted[name] = _fault(part, what)
    return Faults(wanted, clock_by)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"BATT_FAULTS: the file {path} cannot be read: {error}") from error


def _fault(part: str, what: str) -> Fault:
    match re.fullmatch(r"(die|hang|kill)|kill@([1-9][0-9]{0,8})", what, re.ASCII):
        case None:
            raise BadConfiguration(f"BATT_FAULTS: {part!r} says no fault; it is NAME=die, =hang, =kill or =kill@N")
        case found if found[1] == "die":
            return Fault("die")
        case found if found[1] == "hang":
            return Fault("hang")
        case found:
            return Fault("kill", int(found[2] or 1))
