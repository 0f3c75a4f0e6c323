"""The one function that a pool is given. A request goes in as bytes, a report comes out as bytes."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from json import dumps, loads
from time import monotonic
from typing import Any

from worker import dice, fresh, guard, isolate, meter, report
from worker.board import Board

MODULES_MAX, MODULES_BYTES = 20, 3_000
"""How many module files a report may name, in how many bytes of JSON; a longer list goes into a file."""


@dataclass
class Worker:
    """What this process was started with, and what it remembers between requests.

    Attributes:
        logs: The folder of logs.
        log: Name of the worker's first log; further ones have a number behind it.
        rolled: The number of its present log.
        memory_max: Private memory in bytes above which the worker serves no further attempt; 0 for no limit.
        number: Of this worker among all of its battd; a request names the one that it is for.
        room_error: Why its directory could not be entered; every attempt then fails with it.
        pid: This process, not one that a task has forked.
        baseline: How the process was before its first attempt; every attempt is put back to it.
        reported: How many module files the supervisor has been told of.
    """

    board: Board
    cwd: str
    results: str
    value_max: int
    logs: str = ""
    log: str = ""
    rolled: int = 0
    memory_max: int = 0
    number: int = 0
    room_error: OSError | None = None
    baseline: isolate.Baseline | None = None
    pid: int = field(default_factory=os.getpid)
    reported: int = field(default=0)


here: Worker = None  # type: ignore[assignment]
"""Set by `worker.boot` before the first request."""


def serve(frame: bytes) -> None:
    """Do what a request says; what came of it lies on the board then.

    Args:
        frame: JSON, or `@` and the path of a file that holds it: an object with `to`, the number of the worker it is
            for, and `items`, the attempts to be made one after another; their `op` is `call` or `run`. Without items it
            only asks for a sign of life.
    """
    request = loads(_whole(frame))
    if request["to"] != here.number:
        return  # for a worker that died before it took this up; the supervisor has given it to another
    for item in request["items"]:
        if not here.board.begin(item["serial"]):
            return  # the one before it took too long, and it went to another worker
        told = _attempt(item)
        serial = told["serial"] = item["serial"]
        if len(fresh.loaded) != here.reported:
            here.reported = len(fresh.loaded)
            told |= _modules(f"{item['task']}-{item['attempt']}")
        spill = f"{here.results}/{item['task']}-{item['attempt']}.json"
        here.board.write_report(report.pack(told, spill, partial(here.board.write_return, serial)))
        if "recycle" in told:
            return  # what could not be put back must not meet the next attempt, which goes to another worker


def _modules(attempt: str) -> dict[str, Any]:
    """The room's own modules that are loaded, or the name of a file that lists them."""
    stamps = {path: list(stamp) for path, stamp in fresh.loaded.items()}
    if len(stamps) <= MODULES_MAX and len(dumps(stamps)) <= MODULES_BYTES:
        return {"modules": stamps}
    name = f"modules-{attempt}.json"
    try:
        with open(f"{here.results}/{name}", "w", encoding="utf-8") as listed:
            listed.write(dumps(stamps))
    except OSError as error:  # a full disk: nobody could tell whether one of them has changed since
        return {"recycle": f"the list of its modules could not be written: {error.strerror}"}
    return {"modules_file": name}


def _whole(frame: bytes) -> bytes:
    if not frame.startswith(b"@"):
        return frame
    with open(frame[1:], "rb") as held:
        return held.read()


def _attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Run one attempt; its report with what it used."""
    here.baseline = here.baseline or _first_baseline()
    _begin_log()
    meter.reset_peak()
    began = monotonic()
    cpu = meter.cpu_s()
    log_from = _log_size()
    told: dict[str, Any]
    try:
        if here.room_error is not None:
            raise here.room_error
        told = _run(request, cpu) if request["op"] == "run" else _call(request, cpu)
    except BaseException as error:
        told = report.of_error(error)
    if os.getpid() != here.pid:
        # A child that the task forked has come back from it as well. It must not report, nor wait for the next request.
        os._exit(0)
    call = here.board.read_call(request["serial"])
    told["wall_s"] = round(monotonic() - (call[0] if call else began), 6)
    told["cpu_s"] = round(meter.cpu_s() - cpu, 6)
    peak, private = meter.memory_bytes()
    told["peak_memory_bytes"] = max(peak, told.get("peak_memory_bytes") or 0)
    recycle = _put_back(here.baseline, bool(request.get("allow_children")))
    told["log"] = (here.rolled, min(log_from, _log_size()), _log_size())
    if here.memory_max and private > here.memory_max:
        recycle = f"its private memory, {private >> 20} MiB, is above max_worker_memory ({here.memory_max >> 20} MiB)"
    if recycle:
        told["recycle"] = recycle
    return told


def _put_back(baseline: isolate.Baseline, keep: bool) -> str | None:
    """Put the process back in order; what could not be, as the reason to recycle it. It must not cost the result."""
    try:
        recycle = baseline.restore(keep_threads=keep)
        return (None if keep else isolate.end_children()) or recycle
    except BaseException as error:
        return f"it cannot be put back in order: {report.of_error(error)['reason']}"


def _begin_log() -> None:
    """Give the attempt a log of its own, unless nothing was written into the present one.

    A program may truncate the file that its output goes to (`echo x > /dev/stderr` does): that must not be another's.
    """
    if not here.log or not _log_size():
        return
    try:
        name = f"{here.logs}/{here.log}.{here.rolled + 1}"
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # no room for another one; it goes on in this one
    for standard in (1, 2):
        os.dup2(fd, standard)
    os.close(fd)
    here.rolled += 1
    here.board.write_log(here.rolled)
    if here.baseline is not None:
        here.baseline.keep_outputs()


def _first_baseline() -> isolate.Baseline:
    """How every attempt is to find the process: as pebble has left it, but for what pebble does to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    guard.prepare()
    guard.attach(here.board)
    return isolate.Baseline(here.cwd)


def _log_size() -> int:
    """How long the worker's log is: its standard output, unless a task has made something else of it."""
    try:
        return os.fstat(1).st_size
    except OSError:
        return 0


def _call(request: dict[str, Any], cpu: float) -> dict[str, Any]:
    loaded = len(sys.modules)
    function = resolve(request["function"])
    if len(sys.modules) != loaded and here.baseline is not None:
        here.baseline = here.baseline.renewed()
    args = request["args"]
    dice.shake(request.get("seed"))
    here.board.write_call(request["serial"], cpu, meter.waited_s())
    positional, named = ([], args) if isinstance(args, dict) else (args, {})
    soft_s = request.get("soft_timeout_s")
    if soft_s is None:
        value = function(*positional, **named)
    else:
        value = guard.call_with_timeout(function, soft_s, *positional, **named)
    return report.of_value(value, here.value_max)


def resolve(path: str) -> Any:
    """The function that `package.module:name` names; whatever its import raises."""
    module, _, name = path.partition(":")
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _run(request: dict[str, Any], cpu: float) -> dict[str, Any]:
    """Run a command to its end; its output goes where the worker's own goes."""
    words: list[str] = request["command"]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # A signal that is ignored stays ignored in a new program, and the pool ignores SIGINT in its workers.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    here.board.write_call(request["serial"], cpu, meter.waited_s())
    child = subprocess.Popen(
        ["/bin/sh", "-c", words[0]] if request["shell"] else words, stdin=subprocess.DEVNULL, cwd=here.cwd
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    told = report.of_exit(child.returncode)
    told["peak_memory_bytes"] = usage.ru_maxrss * 1024
    return told
