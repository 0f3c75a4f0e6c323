"""The loop's way to the writer: a tick's operations go as one batch, answers come back as notes of a later tick."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from batt_supervisor.clock import Now
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.store.protocol import Item, Operation, Writer

T = TypeVar("T")

RETRY_S: Final = 1.0
"""How long nothing is started after the store could not be written."""

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
    """Operations on their way to the writer.

    Attributes:
        trouble: Why the store cannot be written; empty when the last attempt could.
    """

    def __init__(self, writer: Writer, inbox: Inbox) -> None:
        self.trouble = ""
        self._writer, self._inbox = writer, inbox
        self._items: list[Item] = []
        self._retry_at_s = 0.0

    def write(
        self,
        operation: Operation[T],
        done: Callable[[T, Now], None],
        failed: Callable[[Exception, Now], None] = _nothing,
    ) -> None:
        """Hand an operation over at the end of this tick; one of the two is called in a later one."""
        future: Future[Any] = Future()
        future.add_done_callback(partial(self._written, done, failed))
        self._items.append((operation, future))

    def flush(self) -> bool:
        """Send what has been gathered; whether there was something."""
        items, self._items = self._items, []
        if items:
            self._writer.submit_all(items)
        return bool(items)

    def try_again(self, now: Now) -> None:
        """After a pause, take the store for writable again; the next operation tells."""
        if self.trouble and now.mono_s >= self._retry_at_s:
            self.trouble = ""

    def _written(
        self, done: Callable[[Any, Now], None], failed: Callable[[Exception, Now], None], future: Future[Any]
    ) -> None:
        """In the writer's thread."""

        def note(now: Now) -> None:
            error = future.exception()
            if error is None:
                done(future.result(), now)
                return
            assert isinstance(error, Exception)
            if isinstance(error, StoreUnavailable):
                if not self.trouble:
                    log.error("store unavailable", reason=str(error))
                self.trouble, self._retry_at_s = str(error), now.mono_s + RETRY_S
            failed(error, now)

        self._inbox.put(note)
