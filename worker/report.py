"""Turns what a task did into one small JSON report: a value, an exception, an exit."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import traceback
from collections.abc import Callable
from json import JSONEncoder
from time import monotonic, sleep
from typing import Any

from worker import exhausted, shortage

FRAME_MAX = 15_000
"""Bytes of a request in the pool's pipe, and of a report on the board; what is larger goes through a file. Pickled, a
request of this size stays below the 16,384 bytes up to which multiprocessing writes a message in one piece, so that no
kill can leave half of one."""

HERE = os.path.dirname(os.path.abspath(__file__))

DISK_S = 600.0
"""How long a result waits for a disk that is full, or takes no writes for another cause that may go."""

DISK_PAUSES_S = 0.2, 2.0
"""Between two tries to write it, at first and at the longest."""

_MAY_GO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM})

REASON_MAX = 300
MESSAGE_MAX = 2_000
TRACEBACK_MAX = 6_000

# Made here once: a task may leave a mock in json's place.
_encode = JSONEncoder(separators=(",", ":")).encode
_encode_strictly = JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def of_value(value: Any, value_max: int) -> dict[str, Any]:
    """The report of a task that returned `value`; a value JSON cannot hold is the outcome `bad_result`."""
    try:
        text = _encode_strictly(value)
    except (TypeError, ValueError, RecursionError) as error:
        return {"outcome": "bad_result", "reason": f"the result cannot be stored as JSON: {clip(str(error))}"}
    except BaseException as error:  # a value's own code (a generator, a __str__) may do anything
        return {"outcome": "bad_result", "reason": f"encoding the result raised {type(error).__name__}"}
    if len(text) > value_max:
        return {
            "outcome": "bad_result",
            "reason": f"the result is {len(text)} bytes of JSON, max_result_bytes is {value_max}",
        }
    return {"outcome": "ok", "value": text}


def of_error(error: BaseException) -> dict[str, Any]:
    """The report of a task that raised. Never fails, whatever the exception's own methods and attributes do.

    Where there was no memory, or no thread or process to be had, the reason ends with the limit that was behind it.
    """
    shortage.give_room()
    try:
        return _of_error(error)
    except MemoryError:  # the frames that hold the memory are there as long as the exception is
        unsaid = {"type": "MemoryError", "message": "", "traceback": ""}
        return {"outcome": "out_of_memory", "reason": "MemoryError, and no memory to tell more", "error": unsaid}
    finally:
        shortage.take_room()


def _of_error(error: BaseException) -> dict[str, Any]:
    short = _short(error)
    told = shortage.told(short) if short else ""  # first: it changes by the moment
    limit = f" ({clip(told, REASON_MAX // 2)})" if told else ""
    name = _guarded(lambda: _type_name(type(error)), "the type cannot be shown")
    message = _guarded(lambda: str(error), "its message cannot be shown")
    trace = _guarded(lambda: _trace(error), "its traceback cannot be shown")
    found = {
        "outcome": short or "exception",
        "reason": clip(f"{name}: {message}" if message else name, REASON_MAX - len(limit)) + limit,
        "error": {"type": clip(name, 300), "message": clip(message), "traceback": _tail(trace)},
    }
    return {**found, "own_limit": True} if shortage.is_own(told) else found


def _short(error: BaseException) -> shortage.Outcome | None:
    try:
        return exhausted.outcome_of(error)
    except MemoryError:
        return "out_of_memory"
    except BaseException:  # of the task's own making
        return None


def _trace(error: BaseException) -> str:
    """The traceback from the task's own code on; the whole of it where there is none of that."""
    own = trace = error.__traceback__
    while own is not None and os.path.dirname(own.tb_frame.f_code.co_filename) == HERE:
        own = own.tb_next
    return "".join(traceback.format_exception(type(error), error, own or trace, limit=-30))


def _guarded(make: Callable[[], str], otherwise: str) -> str:
    """What `make` gives; a note in brackets where the task's own code, which it runs, raises or gives no text."""
    try:
        return str.__str__(make())
    except BaseException as second:
        return f"({otherwise}: {type(second).__name__})" if otherwise else ""


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def of_exit(code: int) -> dict[str, Any]:
    """The report of a command that ended with `code`, as os.waitstatus_to_exitcode gives it.

    Nothing but its exit is evidence: a command that prints "can't start new thread" and leaves with 1 has crashed, for
    what it prints may be anything's words, and it has dealt with the matter in its own way.
    """
    if code == 0:
        return {"outcome": "ok", "value": '{"exit_code":0}', "exit_code": 0}
    if code > 0:
        return {"outcome": "crashed", "reason": f"exit code {code}", "exit_code": code}
    return {"outcome": "crashed", "reason": f"killed by {signal_name(-code)}", "signal": signal_name(-code)}


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def clip(text: str, limit: int = MESSAGE_MAX) -> str:
    return text if len(text) <= limit else text[: limit - 20] + f"... ({len(text)} chars)"


def _tail(text: str) -> str:
    if len(text) <= TRACEBACK_MAX:
        return text
    half = TRACEBACK_MAX // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out) ...\n{text[-half:]}"


def pack(report: dict[str, Any], spill: str, writing: Callable[[], None] = lambda: None) -> bytes:
    """The report as bytes for the board; a value that is too large goes into the file `spill` first.

    A value in the file is synced and renamed into place, so that the file is whole or absent.

    Args:
        writing: Called before a file is written, which may take long.
    """
    data = _encode(report).encode()
    if len(data) <= FRAME_MAX:
        return data
    if report.get("value") is not None:
        writing()
        try:
            _write_patiently(spill, report["value"].encode())
            report = {**report, "value": None, "file": os.path.basename(spill)}
        except OSError as error:
            # The disk's fault, not the task's: it goes again.
            said = f"its result of {len(report['value'])} bytes could not be written: {error.strerror}"
            report = {**report, "value": None, "outcome": "lost", "reason": said}
        data = _encode(report).encode()
    limit = MESSAGE_MAX
    while len(data) > FRAME_MAX and "error" in report and limit > 50:
        # Only an exception's texts are left to be large: in JSON a character may take twelve bytes.
        limit //= 2
        short = {key: _shorter(text, limit) for key, text in report["error"].items()}
        data = _encode({**report, "error": short}).encode()
    return data


def _shorter(text: str, limit: int) -> str:
    """As `clip`; of a text that was clipped before, the length it had at first is still told."""
    told = re.search(r"\.\.\. \(\d+ chars\)\Z", text)
    if told is None:
        return clip(text, limit)
    return text if len(text) <= limit else text[: limit - 20] + told[0]


def _write_patiently(path: str, data: bytes) -> None:
    """Write a file; a disk that is full may have room again in a moment."""
    until = monotonic() + DISK_S
    pause, longest = DISK_PAUSES_S
    while True:
        try:
            return _write(path, data)
        except OSError as error:
            if error.errno not in _MAY_GO or monotonic() + pause > until:
                raise
        sleep(pause)
        pause = min(2 * pause, longest)


def _write(path: str, data: bytes) -> None:
    unfinished = path + ".tmp"
    try:
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.rename(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)  # a disk that is full has no room for the half of it either
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
