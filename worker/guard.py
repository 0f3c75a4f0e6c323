"""Helpers for task code inside a worker.

`call_with_timeout` gives one call a soft time limit without a thread: an interval timer raises `SoftTimeout` in the
main thread. It ends Python code and sleeps; it cannot end C code that does not return to the interpreter, which is what
the supervisor's own deadline is for.
"""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

AGAIN_S: Final = 0.2
"""After so long the exception is raised again in code that swallowed it; also the time there is to wind down."""

_RETRY_S: Final = 0.001
_LONGEST_S: Final = 3600.0


class SoftTimeout(BaseException):
    """A call ran for longer than it was given.

    A BaseException, so that `except Exception` in task code lets it pass.

    Attributes:
        seconds: The limit that passed.
        enclosing: True while the limit is that of a call further out. What `call_with_timeout` raises for its own
            limit has False. Code that catches the timeouts of its own calls lets the others pass, or winds down within
            AGAIN_S.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)  # only what re-creates it, so that it can be pickled
        self.seconds = seconds
        self.enclosing = True
        self._limit: _Limit | None = None

    def __str__(self) -> str:
        return f"the call took longer than {self.seconds:g} s"


class _Limit:
    """One running call: its limit in seconds, and its deadline on the monotonic clock."""

    __slots__ = ("deadline", "seconds")

    def __init__(self, seconds: float, deadline: float) -> None:
        self.seconds = seconds
        self.deadline = deadline


class _Alarm:
    """The process's one alarm: the running calls, outermost first, and whether the handler may raise now."""

    def __init__(self) -> None:
        self.limits: list[_Limit] = []
        self.may_raise = False

    def arm(self, delay_s: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, min(max(delay_s, 1e-6), _LONGEST_S), AGAIN_S)

    def arm_for_nearest(self) -> None:
        self.arm(min(limit.deadline for limit in self.limits) - time.monotonic())


_alarm: Final = _Alarm()


def call_with_timeout(fn: Callable[P, T], seconds: float, /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What `fn(*args, **kwargs)` returns, if it does so within `seconds` of wall time.

    Calls may be nested: every limit holds, and a limit that passes inside an inner call ends the outer call that it
    belongs to. The previous SIGALRM handler and timer are put back when the outermost call ends. Code under a limit
    must not use SIGALRM or ITIMER_REAL itself.

    Raises:
        SoftTimeout: The limit passed, this call's (`enclosing` is False) or an outer one's.
        ValueError: `seconds` is not above 0.
        RuntimeError: Not called from the main thread, where alone a signal can raise.
    """
    if not seconds > 0:
        raise ValueError(f"a time limit must be above 0 s, not {seconds!r}")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("call_with_timeout works only in the main thread: a signal cannot end a call in another one")
    # The handler never raises while this function's own frame runs, nor while may_raise is False: a limit that passes
    # there is noticed a moment later, so nothing can tear the bookkeeping, and no alarm comes after the return.
    _alarm.may_raise = False
    limit = _Limit(seconds, time.monotonic() + seconds)
    before = _take_over() if not _alarm.limits else None
    _alarm.limits.append(limit)
    passed: _Limit | None = None
    try:
        _alarm.arm_for_nearest()
        _alarm.may_raise = True
        return _run(fn, args, kwargs)
    except SoftTimeout as stop:
        _alarm.may_raise = False
        passed = stop._limit
        if passed is limit:
            stop.enclosing = False
        raise
    finally:
        _alarm.may_raise = False
        _alarm.limits.remove(limit)
        if before is not None:
            _give_back(before)
        else:
            if passed is not None and passed is not limit:
                _alarm.arm(AGAIN_S)  # already on its way to an outer call
            else:
                _alarm.arm_for_nearest()
            _alarm.may_raise = True


def _run(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """A frame of its own for the call, since a C function has none: an alarm in it belongs to the caller's code."""
    return fn(*args, **kwargs)


def _on_alarm(_signum: int, frame: FrameType | None) -> None:
    """Raise for the outermost limit that passed, unless guard itself is at work; then look again a little later."""
    if not _alarm.limits:
        return
    if not _alarm.may_raise or (frame is not None and frame.f_code in _OWN_CODE):
        _alarm.arm(_RETRY_S)
        return
    now = time.monotonic()
    for limit in _alarm.limits:
        if limit.deadline <= now:
            # The timer goes on, at AGAIN_S: code that swallows the exception gets it again.
            stop = SoftTimeout(limit.seconds)
            stop._limit = limit
            raise stop
    _alarm.arm_for_nearest()


_OWN_CODE: Final = frozenset({call_with_timeout.__code__, _on_alarm.__code__})


class _Before:
    """The handler and the timer that were in force before the outermost call."""

    def __init__(self) -> None:
        self.left_s, self.interval_s = signal.setitimer(signal.ITIMER_REAL, 0)
        self.at_s = time.monotonic()
        self.handler = signal.signal(signal.SIGALRM, _on_alarm)


def _take_over() -> _Before:
    return _Before()


def _give_back(before: _Before) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    # signal.signal() first runs the handler of an alarm that is already pending: still ours, which then does nothing.
    signal.signal(signal.SIGALRM, signal.SIG_DFL if before.handler is None else before.handler)
    if before.left_s > 0:
        left_s = before.left_s - (time.monotonic() - before.at_s)
        signal.setitimer(signal.ITIMER_REAL, max(left_s, 1e-6), before.interval_s)
