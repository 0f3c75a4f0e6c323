"""The loop's way to the writer: a tick's operations go as one batch, answers come back as notes of a later tick."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.errors import StoreDamaged, StoreUnavailable
from batt_supervisor.store.protocol import Item, Operation, Writer

T = TypeVar("T")

RETRY_S: Final = 1.0
"""How often a store that could not be written or read is tried again."""

log = structlog.get_logger("store")


class Inbox:
    """Notes for the loop, from any thread.

    Attributes:
        wake: Readable while there is something to read.
    """

    def __init__(self) -> None:
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._notes: deque[Callable[[Now], None]] = deque()

    def put(self, note: Callable[[Now], None]) -> None:
        self._notes.append(note)
        self.nudge()

    def nudge(self) -> None:
        """Have the loop go round; also from a signal handler."""
        os.eventfd_write(self.wake, 1)

    def read(self, now: Now) -> None:
        """The loop's thread: act on every note."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.wake)
        while self._notes:
            self._notes.popleft()(now)

    def close(self) -> None:
        os.close(self.wake)


def _nothing(error: Exception, now: Now) -> None:
    """What failed is found again by looking at the store."""


class Outbox:
    """Operations on their way to the writer, and whether the store can be worked with.

    A store in trouble is tried again with what is to be written the most, so that it is not called well by a small
    write while large ones still find no room. Only what was handed over after the last failure says anything.

    Args:
        damaged: Called once, when the store turns out to be damaged, with the sentence. It stays in trouble then: what
            can be read and written of it still is, but nothing is started on it.

    Attributes:
        trouble: Why the store cannot be written or read; empty while it can.
        mended: Something could be written since.
        failed_s: When something failed last, monotonic.
    """

    def __init__(self, writer: Writer, inbox: Inbox, damaged: Callable[[str], None] = lambda said: None) -> None:
        self.trouble = ""
        self.mended = False
        self.failed_s = float("-inf")
        self._writer, self._inbox = writer, inbox
        self._items: list[Item] = []
        self._tried_s = self._since_s = float("-inf")
        self._failures = 0
        self._tell_damage: Callable[[str], None] | None = damaged

    def write(
        self,
        operation: Operation[T],
        done: Callable[[T, Now], None],
        failed: Callable[[Exception, Now], None] = _nothing,
    ) -> None:
        """Hand an operation over at the end of this tick; one of the two is called in a later one."""
        future: Future[Any] = Future()
        future.add_done_callback(partial(self._written, done, failed, self._failures))
        self._items.append((operation, future))

    def flush(self) -> bool:
        """Send what has been gathered; whether there was something."""
        items, self._items = self._items, []
        if items:
            self._writer.submit_all(items)
        return bool(items)

    @property
    def damaged(self) -> bool:
        return self._tell_damage is None

    def failed(self, error: StoreUnavailable, now: Now) -> None:
        """The store could not be written or read."""
        if not self.trouble:
            self._since_s = now.mono_s
        said = str(error)
        if said != self.trouble and not self.damaged:
            # Once for each change; how much is free on a full disk is none.
            if _gist(said) != _gist(self.trouble):
                log.error("store unavailable", reason=said)
            self.trouble = said
        if isinstance(error, StoreDamaged) and self._tell_damage is not None:
            tell, self._tell_damage = self._tell_damage, None
            tell(said)
        self.mended, self.failed_s = False, now.mono_s
        self._tried_s = max(self._tried_s, now.mono_s)
        self._failures += 1

    def is_due(self, now: Now) -> bool:
        """Whether a store in trouble is to be tried again now; it is taken for tried then."""
        if now.mono_s - self._tried_s < RETRY_S:
            return False
        self._tried_s = now.mono_s
        return True

    def due_s(self) -> float:
        """When that will be, monotonic; infinity while all is well."""
        return self._tried_s + RETRY_S if self.trouble and not self.mended else float("inf")

    def probe(self, now: Now) -> None:
        """Write something, to see whether it can be: that it could not until now."""
        if self.damaged:
            return
        said = f"was not available for {now.mono_s - self._since_s:.0f} s: {self.trouble}"
        self.write(lambda tx: tx.note("store", said), lambda done, now: None)

    def well(self, now: Now) -> bool:
        """All that had to be written and read could be; whether that is news."""
        if not self.trouble or self.damaged:
            return False
        log.info("store available again", after_s=round(now.mono_s - self._since_s, 1))
        self.trouble, self.mended = "", False
        return True

    def _written(
        self,
        done: Callable[[Any, Now], None],
        failed: Callable[[Exception, Now], None],
        failures: int,
        future: Future[Any],
    ) -> None:
        """In the writer's thread."""

        def note(now: Now) -> None:
            error = future.exception()
            if error is None:
                self.mended = self.mended or failures == self._failures
                done(future.result(), now)
                return
            assert isinstance(error, Exception)
            if isinstance(error, StoreUnavailable):
                self.failed(error, now)
            failed(error, now)

        self._inbox.put(note)


def _gist(said: str) -> str:
    """A sentence without its figures."""
    return re.sub(r"\d+(\.\d+)?( [kMGT]?B)?", "", said)
