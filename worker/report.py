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

FRAME_MAX = 15_000
"""Bytes of a request in the pool's pipe, and of a report on the board; what is larger goes through a file. Pickled, a
request of this size stays below the 16,384 bytes up to which multiprocessing writes a message in one piece, so that no
kill can leave half of one."""

HERE = os.path.dirname(os.path.abspath(__file__))

DISK_S = 10.0
"""How long a result waits for room on a full disk."""

MESSAGE_MAX = 2_000
TRACEBACK_MAX = 6_000

# Made here once: a task may leave a mock in json's place.
_encode = JSONEncoder(separators=(",", ":")).encode
_encode_strictly = JSONEncoder(separators=(",", ":"), allow_nan=False).encode

_NO_THREADS = ("can't start new thread", "can't allocate thread")


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
    """The report of a task that raised. Never fails, whatever the exception's own methods and attributes do."""
    name = _guarded(lambda: _type_name(type(error)), "the type cannot be shown")
    message = _guarded(lambda: str(error), "its message cannot be shown")
    trace = _guarded(lambda: _trace(error), "its traceback cannot be shown")
    return {
        "outcome": _guarded(lambda: _outcome(error), "") or "exception",
        "reason": clip(f"{name}: {message}" if message else name, 300),
        "error": {"type": clip(name, 300), "message": clip(message), "traceback": _tail(trace)},
    }


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
    """The report of a command that ended with `code`, as os.waitstatus_to_exitcode gives it."""
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


def _outcome(error: BaseException) -> str:
    """Whether the exception, one it came from, or one of its group, says that there was no memory or no thread."""
    seen: set[int] = set()
    links: list[BaseException] = [error]
    while links:
        link = links.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        if isinstance(link, MemoryError) or (isinstance(link, OSError) and link.errno == errno.ENOMEM):
            return "out_of_memory"
        if isinstance(link, BlockingIOError) and link.errno == errno.EAGAIN and _from_fork(link):
            return "out_of_threads"
        if isinstance(link, RuntimeError) and any(words in _guarded(link.__str__, "") for words in _NO_THREADS):
            return "out_of_threads"
        if isinstance(link, BaseExceptionGroup):
            links += link.exceptions
        origin = link.__cause__
        if origin is None and not link.__suppress_context__:
            origin = link.__context__
        if origin is not None:
            links.append(origin)
    return "exception"


def _from_fork(error: OSError) -> bool:
    """EAGAIN is also what a full non-blocking pipe says; only starting a process makes it a lack of threads."""
    functions: set[str] = set()
    called: set[str] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        functions.add(frame.f_code.co_name)
        called = set(frame.f_code.co_names)  # in the end those of the innermost, which made the call
    in_library = bool({"_execute_child", "_fork_exec", "_launch", "spawnv_passfds"} & functions)
    return in_library or error.filename is not None or bool({"fork", "forkpty", "posix_spawn", "posix_spawnp"} & called)


def pack(report: dict[str, Any], spill: str) -> bytes:
    """The report as bytes for the board; a value that is too large goes into the file `spill` first.

    A value in the file is synced and renamed into place, so that the file is whole or absent.
    """
    data = _encode(report).encode()
    if len(data) <= FRAME_MAX:
        return data
    if report.get("value") is not None:
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
    while True:
        try:
            return _write(path, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or monotonic() > until:
                raise
        sleep(0.2)


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
