"""The one function that a pool is given. A request goes in as bytes, a report comes out as bytes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from worker import fresh, guard, isolate, meter, report
from worker.board import Board

MODULES_MAX, MODULES_BYTES = 20, 3_000
"""How many module files a report may name, in how many bytes of JSON; a longer list goes into a file."""


@dataclass
class Worker:
    """What this process was started with, and what it remembers between requests.

    Attributes:
        room_error: Why its directory could not be entered; every attempt then fails with it.
        pid: This process, not one that a task has forked.
        baseline: How the process was before its first attempt; every attempt is put back to it.
        reported: How many module files the supervisor has been told of.
    """

    board: Board
    cwd: str
    results: str
    value_max: int
    room_error: OSError | None = None
    baseline: isolate.Baseline | None = None
    pid: int = field(default_factory=os.getpid)
    reported: int = field(default=0)


here: Worker = None  # type: ignore[assignment]
"""Set by `worker.boot` before the first request."""


def serve(frame: bytes) -> None:
    """Do what a request says; what came of it lies on the board then.

    Args:
        frame: JSON, or `@` and the path of a file that holds it: an object with `op`, which is `hello`, `pill`, or
            `pack` with `items`, the attempts to be made one after another; their `op` is `call` or `run`.
    """
    request = json.loads(_whole(frame))
    if request["op"] == "pill":
        # Time for the pool to note that this request has begun: a pool whose *idle* worker dies is broken for good.
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    for item in request.get("items", ()):
        told = _attempt(item)
        told["serial"] = item["serial"]
        if len(fresh.loaded) != here.reported:
            here.reported = len(fresh.loaded)
            told |= _modules(f"{item['task']}-{item['attempt']}")
        here.board.write_report(report.pack(told, f"{here.results}/{item['task']}-{item['attempt']}.json"))
        if "recycle" in told:
            return  # what could not be put back must not meet the next attempt, which goes to another worker


def _modules(attempt: str) -> dict[str, Any]:
    """The room's own modules that are loaded, or the name of a file that lists them."""
    stamps = {path: list(stamp) for path, stamp in fresh.loaded.items()}
    if len(stamps) <= MODULES_MAX and len(json.dumps(stamps)) <= MODULES_BYTES:
        return {"modules": stamps}
    name = f"modules-{attempt}.json"
    with open(f"{here.results}/{name}", "w", encoding="utf-8") as listed:
        json.dump(stamps, listed)
    return {"modules_file": name}


def _whole(frame: bytes) -> bytes:
    if not frame.startswith(b"@"):
        return frame
    with open(frame[1:], "rb") as held:
        return held.read()


def _attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Run one attempt; its report with what it used."""
    baseline = here.baseline = here.baseline or isolate.Baseline(here.cwd)
    meter.reset_peak()
    began = time.monotonic()
    cpu = meter.cpu_s()
    log_from = _log_size()
    here.board.write_begin(request["serial"])
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
    told["wall_s"] = round(time.monotonic() - (call[0] if call else began), 6)
    told["cpu_s"] = round(meter.cpu_s() - cpu, 6)
    told["peak_memory_bytes"] = max(meter.peak_bytes(), told.get("peak_memory_bytes") or 0)
    recycle = baseline.restore()
    told["log"] = (log_from, _log_size())
    isolate.end_children()
    if recycle:
        told["recycle"] = recycle
    return told


def _log_size() -> int:
    """How long the worker's log is: its standard output, unless a task has made something else of it."""
    try:
        return os.fstat(1).st_size
    except OSError:
        return 0


def _call(request: dict[str, Any], cpu: float) -> dict[str, Any]:
    function = resolve(request["function"])
    args = request["args"]
    here.board.write_call(request["serial"], cpu)
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
    here.board.write_call(request["serial"], cpu)
    child = subprocess.Popen(
        ["/bin/sh", "-c", words[0]] if request["shell"] else words, stdin=subprocess.DEVNULL, cwd=here.cwd
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    told = report.of_exit(child.returncode)
    told["peak_memory_bytes"] = usage.ru_maxrss * 1024
    return told
