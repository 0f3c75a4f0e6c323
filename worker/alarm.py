"""The process's one interval timer, and the time limits of all threads that it serves.

A limit has an owner, the thread whose call it is. When the timer rings, Python runs the handler in the main thread. For
a limit of the main thread the handler raises right there; for another thread's it asks the interpreter to raise
SoftTimeout in it as soon as it runs Python code (PyThreadState_SetAsyncExc).

That nothing is raised after a call has returned rests on three things:

- `hold`: each owner says when guard's own code is at work, by a plain store, at which nothing can be raised. Nothing is
  sent to an owner who holds.
- The lock: whoever sends looks at `hold` and sends without letting go of it. So once an owner holds and then has had
  the lock, nothing more comes, and what still lies there unraised is thrown away with the lock in hand (`leave`).
- Before that at most two exceptions can still strike: one that lay there already, and one from a handler that had
  looked just before. So leaving is tried three times.
"""

import _signal  # type: ignore[import-not-found]
import os
import signal
import threading
import time
from _thread import RLock, get_ident
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeVar

T = TypeVar("T")

AGAIN_S: Final = 0.2
"""After so long the exception is raised again in code that swallowed it; also the time there is to wind down."""

_RETRY_S: Final = 0.001
_LONGEST_S: Final = 3600.0
_NEVER: Final = float("inf")


class SoftTimeout(BaseException):
    """A call ran for longer than it was given.

    A BaseException, so that `except Exception` in task code lets it pass.

    Attributes:
        seconds: The limit that passed.
        enclosing: True while the limit is that of a call further out. What `call_with_timeout` raises for its own
            limit has False. Code that catches the timeouts of its own calls lets the others pass, or winds down within
            AGAIN_S.
        mapped: Where it came out of `map_safely`: what that had until then, a `Mapped`.
    """

    def __init__(self, seconds: float | None = None) -> None:
        limit: Limit | None = None
        if seconds is None:  # the interpreter raises it in a thread, and has only the class
            limit = _alarm.passed_here()
            seconds = 0.0 if limit is None else limit.seconds
        super().__init__(seconds)
        self.seconds = seconds
        self.enclosing = True
        self.mapped: Any = None
        self._limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return SoftTimeout, (self.seconds,), {"enclosing": self.enclosing}

    def __str__(self) -> str:
        return f"the call took longer than {self.seconds:g} s"


SoftTimeout.__module__ = "worker.guard"  # where it is found, and the name that users see


class Limit:
    """One call's limit in seconds, and its deadline on the monotonic clock."""

    __slots__ = ("deadline", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds


class _Owner:
    """A thread that has limits, outermost first.

    Attributes:
        again_at: Not before then is anything raised in it again.
        hold: Guard's own code is at work in it: nothing may be raised there.
    """

    __slots__ = ("again_at", "hold", "ident", "limits")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.limits: list[Limit] = []
        self.again_at = 0.0
        self.hold = True

    def passed(self, now: float) -> Limit | None:
        for limit in self.limits:
            if limit.deadline <= now:
                return limit
        return None

    def due(self, now: float) -> float:
        """When there is next something to do for it."""
        nearest = min((limit.deadline for limit in self.limits), default=_NEVER)
        if nearest > now:
            return nearest
        return max(self.again_at, now + _RETRY_S if self.hold else now)


class _Before:
    """The timer and the handler that were in force before guard took them over."""

    def __init__(self) -> None:
        self.left_s, self.interval_s = signal.setitimer(signal.ITIMER_REAL, 0)
        self.at_s = time.monotonic()
        self.handler: Any = _signal.getsignal(signal.SIGALRM)
        if self.handler is not on_alarm:
            _signal.signal(signal.SIGALRM, on_alarm)

    def put_back(self, may_set_handler: bool) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self.handler is not on_alarm and may_set_handler:
            # This first runs the handler of an alarm that is already pending: still ours, which then does nothing.
            _signal.signal(signal.SIGALRM, signal.SIG_DFL if self.handler is None else self.handler)
        if self.left_s > 0:
            left_s = self.left_s - (time.monotonic() - self.at_s)
            signal.setitimer(signal.ITIMER_REAL, max(left_s, 1e-6), self.interval_s)


class _Alarm:
    """Who has limits, and who must have the lock to change or act on them.

    The lock can be taken twice by one thread, since a signal handler or a finalizer may come in between.

    Attributes:
        before: What is to be put back when no limit is left.
        lent: How many calls of the main thread keep the handler in place for threads of theirs.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew; also in a child after a fork, which has no other threads, no timer and none of the limits."""
        self.lock = RLock()
        self.owners: dict[int, _Owner] = {}
        self.before: _Before | None = None
        self.lent = 0
        self.main = threading.main_thread().ident

    # Each thread for itself

    def enter(self, owner: _Owner, limit: Limit) -> None:
        if owner.ident != self.main:
            load_async()
        with self.lock:
            owner.limits.append(limit)
            self.owners[owner.ident] = owner
            self.set_timer()

    def leave(self, owner: _Owner, limit: Limit, passed: Limit | None) -> None:
        """End a limit; may be called again. The owner holds.

        Args:
            passed: The limit whose exception is on its way out of the call.
        """
        with self.lock:
            if owner.ident != self.main:
                _raise_in(owner.ident, None)  # from here on nothing can strike
            if limit in owner.limits:
                owner.limits.remove(limit)
            if not owner.limits:
                if self.owners.get(owner.ident) is owner:
                    del self.owners[owner.ident]
            else:
                on_its_way = passed is not None and passed is not limit
                owner.again_at = time.monotonic() + AGAIN_S if on_its_way else 0.0
            self.set_timer()

    def passed_here(self) -> Limit | None:
        owner = self.owners.get(get_ident())
        return None if owner is None else owner.passed(time.monotonic())

    # With the lock in hand

    def set_timer(self) -> None:
        """Set the timer for whatever is next; where nothing is, give it back."""
        now = time.monotonic()
        due = min((owner.due(now) for owner in list(self.owners.values())), default=_NEVER)
        if due == _NEVER:
            if self.before is not None:
                if self.lent:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                else:
                    before, self.before = self.before, None
                    before.put_back(get_ident() == self.main)
            return
        if self.before is None:
            if get_ident() != self.main and not is_installed():
                return  # map_safely without limits: whoever ends such a call looks after it
            self.before = _Before()
        _arm(due - now)

    def ring(self, *, in_handler: bool) -> Limit | None:
        """Raise in other threads what is due there; what is due in the main thread, whose handler then raises it."""
        now = time.monotonic()
        due_here: Limit | None = None
        for owner in list(self.owners.values()):
            limit = owner.passed(now)
            if limit is None or owner.hold or owner.again_at > now:
                continue
            if owner.ident != self.main:
                owner.again_at = now + AGAIN_S
                _raise_in(owner.ident, SoftTimeout)
            elif in_handler:
                owner.again_at = now + AGAIN_S
                due_here = limit
        return due_here


_alarm: Final = _Alarm()
os.register_at_fork(after_in_child=_alarm.forget)


def run(limit: Limit, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """What `fn(*args, **kwargs)` returns; SoftTimeout is raised in it when `limit` passes."""
    ident = get_ident()
    owner = _alarm.owners.get(ident) or _Owner(ident)
    held = owner.hold
    passed: Limit | None = None
    try:
        _alarm.enter(owner, limit)
        owner.hold = False
        return _run(fn, args, kwargs)
    except SoftTimeout as stop:
        owner.hold = True
        passed = stop._limit
        if passed is limit:
            stop.enclosing = False
        raise
    finally:
        # The interpreter looks for signals and exceptions from elsewhere at calls and at jumps back. So nothing can
        # strike between the end of the call and this store; and the three tries stand without a loop.
        owner.hold = True
        try:
            _alarm.leave(owner, limit, passed)
        except BaseException as struck:
            try:
                _alarm.leave(owner, limit, passed)
            except SoftTimeout:
                _alarm.leave(owner, limit, passed)
            if not isinstance(struck, SoftTimeout):
                raise  # Ctrl-C, say
        owner.hold = held


def _run(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """A frame of its own for the call, since a C function has none: what is raised in it shows there."""
    return fn(*args, **kwargs)


def on_alarm(_signum: int, _frame: FrameType | None) -> None:
    """The handler of SIGALRM; without limits it does nothing."""
    if not _alarm.owners:
        return
    # `with`, since what another signal raises could strike right after a call of acquire(). It may wait: whoever
    # has the lock never waits for the main thread with it in hand.
    with _alarm.lock:
        limit = _alarm.ring(in_handler=True)
        _alarm.set_timer()
    if limit is not None:
        stop = SoftTimeout(limit.seconds)
        stop._limit = limit
        raise stop


def _arm(delay_s: float) -> None:
    # It goes on, at AGAIN_S, so that an alarm that was missed is made good.
    signal.setitimer(signal.ITIMER_REAL, min(max(delay_s, 1e-6), _LONGEST_S), AGAIN_S)


# The handler


def is_installed() -> bool:
    return _signal.getsignal(signal.SIGALRM) is on_alarm


def is_main() -> bool:
    return get_ident() == _alarm.main


def serves_threads() -> bool:
    """Whether the handler is there, and not only until a call of the main thread returns."""
    before = _alarm.before
    return is_installed() and (before is None or before.handler is on_alarm or _alarm.lent > 0)


def install() -> None:
    """Install the handler for good. Only in the main thread."""
    load_async()
    with _alarm.lock:
        if _alarm.before is not None:
            _alarm.before.handler = on_alarm
        if not is_installed():
            _signal.signal(signal.SIGALRM, on_alarm)
        _alarm.set_timer()


def lend() -> None:
    """Have the handler in place until `take_back`. Only in the main thread."""
    with _alarm.lock:
        _alarm.lent += 1
        if _alarm.before is None and not is_installed():
            _alarm.before = _Before()


def take_back() -> None:
    with _alarm.lock:
        _alarm.lent = max(_alarm.lent - 1, 0)  # 0 already in a child that a task has forked
        before = _alarm.before
        if before is not None and before.handler is not on_alarm and not _alarm.lent:
            # What was there before must not get alarms for threads that could not be ended.
            for owner in list(_alarm.owners.values()):
                if owner.ident != _alarm.main:
                    for limit in owner.limits:
                        limit.deadline = _NEVER
        _alarm.set_timer()


# Another thread's limits


def end_now(limits: list[Limit]) -> None:
    """Let limits of other threads pass now, and do at once what is due: this needs neither timer nor handler."""
    with _alarm.lock:
        now = time.monotonic()
        for limit in limits:
            limit.deadline = min(limit.deadline, now)
        _alarm.ring(in_handler=False)


def load_async() -> None:
    """Have what reaches other threads; imported only where it is used.

    Raises:
        Exception: ctypes cannot be imported.
    """
    if not _set_async:
        import ctypes

        prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)  # keeps the GIL
        _set_async.append(prototype(("PyThreadState_SetAsyncExc", ctypes.pythonapi)))


_set_async: Final[list[Callable[[int, int | None], int]]] = []
"""PyThreadState_SetAsyncExc, once a thread has needed it."""


def _raise_in(ident: int, kind: type[SoftTimeout] | None) -> None:
    """Have `kind` raised in a thread as soon as it runs Python code; None: what waits to be raised is not."""
    if _set_async:
        _set_async[0](ident, None if kind is None else id(kind))  # in CPython the id is the address
