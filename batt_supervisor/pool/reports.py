"""Reads what a worker has reported: written by the worker, but in a process in which a task may have done anything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from batt_supervisor.core.model import Outcome
from batt_supervisor.jsontext import loads
from worker.fresh import Stamp

OUTCOMES: Final = frozenset(
    {
        Outcome.OK,
        Outcome.EXCEPTION,
        Outcome.BAD_RESULT,
        Outcome.CRASHED,
        Outcome.OUT_OF_MEMORY,
        Outcome.OUT_OF_THREADS,
        Outcome.LOST,
    }
)
"""What a worker can say of an attempt; everything else is seen from outside."""

_TEXTS: Final = ("reason", "value", "file", "signal")
_NUMBERS: Final = ("wall_s", "cpu_s")
_COUNTS: Final = ("peak_memory_bytes", "exit_code")


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    Attributes:
        told: What it says of the attempt; see `worker.report`.
        log: Number of the worker's log, and the first byte and the end of what is the attempt's.
        modules: Files of the room's modules that the worker has loaded, if more than it had told before.
        modules_file: The file that lists them, where they are many.
        recycle: Why the worker should serve no further attempt; empty while it may.
    """

    told: dict[str, Any]
    log: tuple[int, int, int]
    modules: dict[str, Stamp]
    modules_file: str
    recycle: str


def read(data: bytes, serial: int, attempt: str) -> Report:
    """Read the report of attempt `serial`.

    Args:
        attempt: What the files that its worker writes for it are named after. No other one is its to name: what a
            report names is believed, and removed, in a folder where other tasks' results are.

    Raises:
        ValueError: It is none, is of another attempt, or says what no worker says.
    """
    told = _loads(data)
    if not isinstance(told, dict) or told.pop("serial", None) != serial:
        raise ValueError("it tells of another attempt than the next")
    _expect(isinstance(told.get("outcome"), str) and told["outcome"] in OUTCOMES, "its outcome")
    for name, value in told.items():
        if name in _TEXTS:
            _expect(isinstance(value, str | None), name)
        elif name in _COUNTS:
            _expect(value is None or _is_number(value, int), name)
    for name in _NUMBERS:
        _expect(_is_number(told.get(name), int | float), name)
    _expect(told.get("file") in (None, f"{attempt}.json"), "file")
    error = told.get("error")
    if error is not None:
        _expect(isinstance(error, dict) and set(error) == {"type", "message", "traceback"}, "error")
        _expect(all(isinstance(text, str) for text in error.values()), "error")
    _expect(isinstance(told.get("own_limit", False), bool), "own_limit")
    log = told.pop("log", None)
    _expect(isinstance(log, list) and len(log) == 3 and all(_is_number(one, int) for one in log), "log")
    modules, listed = stamps(told.pop("modules", {})), told.pop("modules_file", "")
    _expect(listed in ("", f"modules-{attempt}.json"), "modules_file")
    recycle = told.pop("recycle", "")
    _expect(isinstance(recycle, str), "recycle")
    first, last = max(0, log[1]), max(0, log[2])
    return Report(told, (log[0], min(first, last), last), modules, listed, recycle)


def read_modules(data: bytes) -> dict[str, Stamp]:
    """Read a list of modules that has a file of its own.

    Raises:
        ValueError: It is none.
    """
    return stamps(_loads(data))


def stamps(told: object) -> dict[str, Stamp]:
    """Module files and their states.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(told, dict):
        raise ValueError("modules is not what a worker says")
    return {_path(path): _stamp(one) for path, one in told.items()}


def _path(told: str) -> str:
    _expect(b"\0" not in os.fsencode(told), "modules")  # no file has such a name, nor one that has no bytes
    return told


def _stamp(told: object) -> Stamp:
    if not isinstance(told, list) or len(told) != 4 or not all(type(one) is int for one in told):
        raise ValueError("modules is not what a worker says")
    return told[0], told[1], told[2], told[3]


def _loads(data: bytes) -> Any:
    try:
        return loads(data.decode())
    except RecursionError as error:
        raise ValueError("it is nested deeper than anything that a worker says") from error


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 <= abs(value) < 2**53


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} is not what a worker says")
