"""A map over a few threads for code inside a task: bounded, with partial results, and without any thread at need."""

from __future__ import annotations

import os
import threading
import time
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar, cast, overload

from worker import alarm
from worker.alarm import AGAIN_S, Limit, SoftTimeout

T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D")

WORKERS_MAX: Final = 4
"""Threads that a map has by default, at most, the calling one included."""

END_S: Final = 1.0
"""How long code that was told to end by SoftTimeout has for it, before its thread is given up."""

_WIND_DOWN_S: Final = AGAIN_S / 2
_LOOK_S: Final = 0.02
_NEVER: Final = float("inf")

State = Literal["ok", "error", "timeout", "given_up", "not_started"]


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """What came of one item.

    Attributes:
        index: Its place in `items`.
        state: `ok`: returned; `error`: raised; `timeout`: took longer than `each_timeout`; `given_up`: was running when
            the whole map was ended; `not_started`: had not begun by then.
        value: What the function returned.
        error: What it raised; for `timeout` a SoftTimeout.
    """

    index: int
    state: State
    value: R | None = None
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        return self.state == "ok"


class Mapped(Sequence[Done[R]]):
    """What came of each item, in the order of the items.

    Attributes:
        stuck: Threads that did not end when told to, and are left behind as daemons. In a worker they cost it its life
            after the attempt, and nothing else.
        refused: Threads that the system would not start, so that the others did their share.
    """

    def __init__(self, done: Iterable[Done[R]], stuck: int = 0, refused: int = 0) -> None:
        self._done = tuple(done)
        self.stuck = stuck
        self.refused = refused

    @overload
    def __getitem__(self, index: int) -> Done[R]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Done[R], ...]: ...
    def __getitem__(self, index: int | slice) -> Done[R] | tuple[Done[R], ...]:
        return self._done[index]

    def __len__(self) -> int:
        return len(self._done)

    def __iter__(self) -> Iterator[Done[R]]:
        return iter(self._done)

    def __repr__(self) -> str:
        finished = sum(done.ok for done in self._done)
        return f"<Mapped: {finished} of {len(self)} ok, stuck {self.stuck}, refused {self.refused}>"

    @property
    def complete(self) -> bool:
        """Whether every item was run to its own end: returned or raised."""
        return all(done.state in ("ok", "error") for done in self._done)

    def values(self) -> list[R]:
        """What the items returned that did, in their order."""
        return [cast(R, done.value) for done in self._done if done.ok]

    def values_or(self, default: D) -> list[R | D]:
        """One value for each item, `default` for those that returned none."""
        return [cast(R, done.value) if done.ok else default for done in self._done]

    def errors(self) -> dict[int, BaseException]:
        """By index, what items raised, their own timeouts included."""
        return {done.index: done.error for done in self._done if done.error is not None}

    def left(self) -> list[int]:
        """Indices of the items that were given up or not started."""
        return [done.index for done in self._done if done.state in ("given_up", "not_started")]


def map_safely(
    fn: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int | None = None,
    timeout: float | None = None,
    each_timeout: float | None = None,
) -> Mapped[R]:
    """Call `fn` with every item, in the calling thread and a few helpers, and say what came of each.

    Each thread takes an item when it is about to run it, so nothing is ever queued: not more than `workers` items are
    begun and not finished, and no item is run twice, whatever the system refuses. Where a helper cannot be started the
    map goes on with those it has, at worst in the calling thread alone. An item that raises does not end the others.

    When `timeout` passes the map returns what it has. When a limit of the caller passes (its own `call_with_timeout`,
    or the attempt's soft timeout) SoftTimeout comes out of the map, with what the map had until then as its `mapped`.
    Either way the helpers are told to end, by SoftTimeout in what they run, and waited for: END_S in the first case,
    half of AGAIN_S in the second. A thread that is in C code, or swallows the exception, cannot be ended; it is left as
    a daemon and counted as `stuck`. Only the calling thread cannot be left behind like that: an item that is stuck
    there is the supervisor's hard limit to end.

    The size of the helpers' stacks is left as it is: `threading.stack_size` holds for the whole process, and deep
    recursion in `fn` needs the usual one.

    Args:
        items: Read once, at the start.
        workers: Threads that run items, the calling one included. Default: 4, or fewer where there are fewer items or
            cores; 1 inside of another map, so that maps do not multiply threads.
        timeout: Seconds for all of it.
        each_timeout: Seconds for each item, from its own start.

    Raises:
        SoftTimeout: A limit of the caller passed.
        ValueError: A limit is not above 0, or `workers` is below 1.
        RuntimeError: With a limit in a thread other than the main one, without `guard.prepare()`.
    """
    for name, seconds in (("timeout", timeout), ("each_timeout", each_timeout)):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{name} must be above 0 s, not {seconds!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers!r}")
    limited = timeout is not None or each_timeout is not None
    is_main = alarm.is_main()
    if limited and not is_main and not alarm.serves_threads():
        raise RuntimeError(
            "for map_safely with a limit in another thread, call guard.prepare() in the main thread first"
        )
    mapping = _Mapping(fn, list(items), timeout or _NEVER, each_timeout or _NEVER)
    if not is_main:
        return mapping.run(workers)
    alarm.lend()
    try:
        return mapping.run(workers)
    finally:
        alarm.take_back()


_mapping_threads: Final[set[int]] = set()
"""Threads that run items now: a map that one of them starts has no helpers of its own."""


class _Unawaited(threading.Event):
    """Thread.start() waits for this. A thread that finds no memory for its first frame never sets it."""

    def wait(self, timeout: float | None = None) -> bool:
        return True


class _Helper(threading.Thread):
    """A thread that takes items until there are no more.

    Attributes:
        begun: It runs; until then it has taken nothing.
        finished: It takes nothing any more.
        limit: Of the item that it runs, or ran last.
        index: Of that item.
    """

    def __init__(self, take_all: Callable[[_Helper], None]) -> None:
        super().__init__(name="map_safely", daemon=True)
        self._started = _Unawaited()
        self._take_all = take_all
        self._over = allocate_lock()
        self._over.acquire()
        self.begun = self.finished = False
        self.limit: Limit | None = None
        self.index = -1

    def run(self) -> None:
        self.begun = True
        try:
            self._take_all(self)
        finally:
            self.finished = True
            self._over.release()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it has come. Not by join(), which in Python 3.11 takes a thread for ended when an
        exception strikes in it."""
        return self.finished or self._over.acquire(timeout=max(seconds, 0.0))


class _Mapping(Generic[T, R]):
    def __init__(self, fn: Callable[[T], R], items: list[T], timeout_s: float, each_s: float) -> None:
        self.fn = fn
        self.items = items
        self.each_s = each_s
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.waiting = deque(range(len(items)))
        self.not_started: list[int] = []
        self.done: list[Done[R] | None] = [None] * len(items)
        self.helpers: list[_Helper] = []
        self.refused = 0
        self.stuck: set[_Helper] = set()
        self.overdue: set[int] = set()
        self.ending = False
        self.pid = os.getpid()

    def run(self, workers: int | None) -> Mapped[R]:
        try:
            self._start(self._threads(workers) - 1)
            self._take_all(None)
            self._wait()
            self._end(END_S)
        except BaseException as error:
            # One that strikes again here would be the second within AGAIN_S.
            self._end(_WIND_DOWN_S)
            if isinstance(error, SoftTimeout):
                error.mapped = self._mapped()
            raise
        return self._mapped()

    def _threads(self, workers: int | None) -> int:
        if workers is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            workers = 1 if get_ident() in _mapping_threads else min(WORKERS_MAX, cores)
        return max(1, min(workers, len(self.items)))

    def _start(self, count: int) -> None:
        for begun in range(count):
            try:
                alarm.load_async()  # without it helpers could not be ended
                helper = _Helper(self._take_all)
                self.helpers.append(helper)  # first: what strikes within start() must not lose a thread that runs
                helper.start()
            except (RuntimeError, MemoryError, OSError, ImportError):
                del self.helpers[begun:]
                self.refused = count - begun
                return

    # In every thread

    def _take_all(self, helper: _Helper | None) -> None:
        """Run items until there are no more; `helper` is None in the calling thread."""
        ident = get_ident()
        inside_another = ident in _mapping_threads
        _mapping_threads.add(ident)
        try:
            while True:
                try:
                    index = self.waiting.popleft()  # atomic: an item has one taker
                except IndexError:
                    return
                left_s = self.deadline - time.monotonic()
                if left_s <= 0:
                    self.done[index] = Done(index, "not_started")
                    return
                limit = Limit(min(left_s, self.each_s))
                if helper is not None:
                    helper.limit, helper.index = limit, index
                self.done[index] = self._run(index, limit, helper)
                if os.getpid() != self.pid:
                    return  # a child that the task has forked, and which came back: the rest is its parent's
        finally:
            if not inside_another:
                _mapping_threads.discard(ident)

    def _run(self, index: int, limit: Limit, helper: _Helper | None) -> Done[R]:
        try:
            return Done(index, "ok", alarm.run(limit, self.fn, (self.items[index],), {}))
        except SoftTimeout as stop:
            if stop._limit is limit:
                by_map = self.ending or limit.seconds < self.each_s
                return Done(index, "given_up" if by_map else "timeout", error=stop)
            if helper is None and stop.enclosing and stop._limit is not None:
                raise  # the caller's own
            return Done(index, "error", error=stop)
        except KeyboardInterrupt as error:
            if helper is None:
                raise
            return Done(index, "error", error=error)
        except BaseException as error:
            return Done(index, "error", error=error)

    # In the calling thread

    def _wait(self) -> None:
        """Wait for what the helpers still run."""
        for helper in self.helpers:
            # One that has not begun finds nothing to take any more.
            while helper.begun and not helper.wait(_LOOK_S):
                now = time.monotonic()
                if now >= self.deadline or os.getpid() != self.pid:
                    return
                limit = helper.limit
                if limit is not None and limit.deadline + END_S < now:
                    self.overdue.add(helper.index)
                    self.stuck.add(helper)
                    break

    def _end(self, within_s: float) -> None:
        """Have all helpers end what they run, and wait for their ends; may be called again."""
        self.ending = True
        while self.waiting:
            try:
                self.not_started.append(self.waiting.popleft())
            except IndexError:
                break  # a helper was quicker
        if os.getpid() != self.pid:
            return  # in such a child the threads are not there
        until = time.monotonic() + within_s
        for helper in self.helpers:
            while helper not in self.stuck and not helper.wait(0):
                left_s = until - time.monotonic()
                if left_s <= 0:
                    if helper.begun:
                        self.stuck.add(helper)
                    break
                alarm.end_now([other.limit for other in self.helpers if other.limit is not None])
                helper.wait(min(left_s, _LOOK_S))
            if helper.finished:
                self.stuck.discard(helper)
                helper.join(END_S)  # until the interpreter, too, counts it no more

    def _mapped(self) -> Mapped[R]:
        never_begun = sum(not helper.begun for helper in self.helpers)
        unstarted = set(self.not_started)
        done: list[Done[R]] = []
        for index, finished in enumerate(self.done):
            if finished is not None:
                done.append(finished)
            elif index in unstarted:
                done.append(Done(index, "not_started"))
            elif index in self.overdue:
                done.append(Done(index, "timeout", error=SoftTimeout(self.each_s)))
            else:
                done.append(Done(index, "given_up"))
        if not self.stuck:
            # Tracebacks and helpers lead back here: without these cycles all of it goes as soon as the caller lets it.
            self.done.clear()
            self.helpers.clear()
        return Mapped(done, len(self.stuck), self.refused + never_begun)
