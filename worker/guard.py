"""Helpers for task code: time limits without a thread, maps over bounded threads, signs of life.

All of it also works outside of a worker, in a plain script or under pytest; `heartbeat` and `progress` then do nothing.
docs/guard.md has examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from worker import alarm
from worker.alarm import AGAIN_S, SoftTimeout
from worker.mapping import Done, Mapped, map_safely

if TYPE_CHECKING:
    from worker.board import Board

__all__ = [
    "AGAIN_S",
    "Done",
    "Mapped",
    "SoftTimeout",
    "attach",
    "call_with_timeout",
    "heartbeat",
    "map_safely",
    "prepare",
    "progress",
]

P = ParamSpec("P")
T = TypeVar("T")


def prepare() -> None:
    """Install guard's handler of SIGALRM for good, so that `call_with_timeout` works in every thread.

    A worker has done this before the first attempt. It may be called again at any time, and puts the handler back if
    something has replaced it. Without limits the handler does nothing.

    Raises:
        RuntimeError: Not called from the main thread, where alone Python lets a handler be installed.
    """
    if not alarm.is_main():
        raise RuntimeError("guard.prepare() must be called in the main thread")
    alarm.install()


def call_with_timeout(fn: Callable[P, T], seconds: float, /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What `fn(*args, **kwargs)` returns, if it does so within `seconds` of wall time.

    No thread is started: `fn` runs in the calling thread. One interval timer (ITIMER_REAL, SIGALRM) serves the limits
    of all threads. Python runs its handler in the main thread, which raises `SoftTimeout` in itself for its own limits,
    and has the interpreter raise it in another thread for that thread's. Either this call returns the value or it
    raises; the exception never comes after it has returned. What swallows it gets it again every AGAIN_S until the call
    ends.

    Calls may be nested: every limit holds, and a limit that passes inside an inner call ends the outer call that it
    belongs to. In other threads than the main one it works after `prepare()`. In the main thread it works without, and
    the previous SIGALRM handler and timer are then put back when the outermost call ends. Code under a limit must not
    use SIGALRM or ITIMER_REAL itself. A forked child is not under the limits of its parent.

    What it cannot do: end C code that does not come back to the interpreter. In the main thread `time.sleep`, waiting
    for a lock, an event or a thread, and reading are ended all the same, by the signal. In another thread each of them
    comes to its own end first, and the exception after it: there, wait with a short timeout in a loop. While the main
    thread is in C code of the first kind, limits of other threads wait as well. A generator function or a coroutine
    function only makes its object within the limit; and a generator that the exception went through is finished.

    Raises:
        SoftTimeout: The limit passed, this call's (`enclosing` is False) or an outer one's.
        ValueError: `seconds` is not above 0.
        RuntimeError: Called from a thread other than the main one, without `prepare()`.
    """
    if not seconds > 0:
        raise ValueError(f"a time limit must be above 0 s, not {seconds!r}")
    if not alarm.is_main() and not alarm.serves_threads():
        raise RuntimeError("for call_with_timeout in another thread, call guard.prepare() in the main thread first")
    return alarm.run(alarm.Limit(seconds), fn, args, kwargs)


_board: Board | None = None


def attach(board: Board | None) -> None:
    """Have signs of life go to this board; None: nowhere. Called by the worker itself."""
    global _board  # noqa: PLW0603 - one worker, one board
    _board = board


def heartbeat() -> None:
    """Say that the task is alive though it may use no CPU, for runs with a stall timeout.

    It writes one number into shared memory, so it may stand in an inner loop. It works in threads and in children that
    the task has forked; outside of a worker it does nothing.
    """
    if _board is not None:
        _board.write_beat()


def progress(done: float, total: float) -> None:
    """Say how far the task has come, in whatever unit; also a sign of life.

    Raises:
        ValueError: Not two finite numbers, `total` above 0 and `done` not below it.
    """
    try:
        done_f, total_f = float(done), float(total)
    except OverflowError:
        done_f = total_f = float("inf")
    if not (0 <= done_f < float("inf") and 0 < total_f < float("inf")):
        raise ValueError(f"progress is a number from 0 on, of a total above 0, not {done!r} of {total!r}")
    if _board is not None:
        _board.write_progress(done_f, total_f)
