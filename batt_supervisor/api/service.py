"""What the routes work with: the store, the loop's ear and its view, the settings in force."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Container
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from batt_supervisor.config import Settings
from batt_supervisor.core.admission import Hold
from batt_supervisor.core.lifecycle import State
from batt_supervisor.core.model import Space
from batt_supervisor.core.retry import runs_alone
from batt_supervisor.core.world import Line
from batt_supervisor.errors import NotFound, StoreUnavailable, nearest
from batt_supervisor.store.protocol import Reads, Store, Writes
from batt_supervisor.store.rows import RunRow, TaskRow
from batt_supervisor.wire import HeadroomReport, ServiceInfo

T = TypeVar("T")


@dataclass
class Service:
    """Everything a route may use. Its methods are called in the API's thread only, except `changed`.

    Attributes:
        settings: The settings in force now.
        run_changed: Tells the loop that a run's own row was changed.
        stop_asked: Tells the loop that a running task is to be stopped.
        describe: The service as it stands, without what the store knows.
        holds: What holds the next task of each run.
        draining: Whether battd is going down.
        lines: What holds each line of queued tasks.
        headroom: Everything that admission goes by.
        prune_asked: Tells the loop that runs are to be removed.
        removing: Whether something is being removed.
        total: What the whole machine has, by the last reading; None before there is one.
        store_failed: Tells the loop that the store could not be read or written.
        trouble: Why nothing starts at all, while the store does not work.
        writing: Running tasks of which nothing is left but to write their result to the disk.
    """

    store: Store
    settings: Callable[[], Settings]
    run_changed: Callable[[int], None]
    stop_asked: Callable[[int], None]
    describe: Callable[[], ServiceInfo]
    holds: Callable[[], dict[int, Hold]]
    draining: Callable[[], bool]
    logs: Path
    results: Path
    prune_asked: Callable[[], None] = lambda: None
    removing: Callable[[], bool] = lambda: False
    total: Callable[[], Space | None] = lambda: None
    lines: Callable[[], dict[Line, Hold]] = dict
    headroom: Callable[[], HeadroomReport] | None = None
    store_failed: Callable[[StoreUnavailable], None] = lambda error: None
    trouble: Callable[[], Hold | None] = lambda: None
    writing: Callable[[], Container[int]] = frozenset
    _leaving: bool = False
    _reader: Reads | None = None
    _waiters: dict[int, set[asyncio.Event]] = field(default_factory=dict)
    _event_waiters: set[asyncio.Event] = field(default_factory=set)
    _event_loop: asyncio.AbstractEventLoop | None = None

    @property
    def reader(self) -> Reads:
        if self._reader is None:
            self._reader = self.store.reader()
        return self._reader

    def failed(self, error: StoreUnavailable) -> None:
        """The store could not be read or written: the loop is told, and the next request has a new connection."""
        self.close()
        self.store_failed(error)

    def close(self) -> None:
        """Let go of the read connection: between two requests, or when the API's thread has ended."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    async def write(self, operation: Callable[[Writes], T]) -> T:
        """Run an operation in the writer; returns when it is on disk."""
        future: Future[T] = self.store.writer.submit(operation)
        return await asyncio.wrap_future(future)

    def run(self, reference: str) -> RunRow:
        """The run that `r7`, `7` or a name means; the latest of that name.

        Raises:
            NotFound: With the nearest name there is.
        """
        match = re.fullmatch(r"r?(\d{1,18})", reference)
        found = self.reader.run(int(match[1])) if match else self.reader.run_named(reference)
        if found is None:
            if match and self.reader.was_there(int(match[1])):
                raise NotFound(f"run {reference!r} is gone: it was pruned, or its submission was given up")
            hint = "" if match else nearest(reference, self.reader.run_names(200))
            raise NotFound(f"no run {reference!r}{hint}")
        return found

    def hold_of(self, row: TaskRow) -> Hold | None:
        """What holds a queued task: the store, the line that it stands in, or its run as a whole."""
        if (trouble := self.trouble()) is not None:
            return trouble
        tries = self.reader.history(row.id)
        line = Line(row.run_id, row.stage, tries.resource, runs_alone(tries))
        return self.lines().get(line) or self.holds().get(row.run_id)

    def task(self, reference: str) -> TaskRow:
        """The task that `t12` or `12` means.

        Raises:
            NotFound: There is none.
        """
        match = re.fullmatch(r"t?(\d{1,18})", reference)
        found = self.reader.task(int(match[1])) if match else None
        if found is None:
            raise NotFound(f"no task {reference!r}; tasks are named like t12")
        return found

    def counts(self, run_id: int) -> dict[State, int]:
        found: dict[State, int] = {}
        for tally in self.reader.tallies(run_id):
            found[tally.state] = found.get(tally.state, 0) + tally.count
        return found

    # Waiting for a run to change, without a thread

    def begin(self, event_loop: asyncio.AbstractEventLoop) -> None:
        """The API's thread, before the first request."""
        self._event_loop = event_loop
        # A connection opens the database's files when it reads first, and makes what is missing of them: now, when they
        # have just been seen.
        with suppress(StoreUnavailable):
            self.reader.runs(1)

    def changed(self, run_ids: set[int]) -> None:
        """The writer's thread: wake whoever waits for one of these runs."""
        if self._event_loop is not None and (self._event_waiters or not self._waiters.keys().isdisjoint(run_ids)):
            self._event_loop.call_soon_threadsafe(self._wake, run_ids)

    def leave(self) -> None:
        """Any thread: battd goes away. Whoever waits gets what there is, and no request waits from now on."""
        self._leaving = True
        if self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(lambda: self._wake(set(self._waiters)))

    def _wake(self, run_ids: set[int]) -> None:
        for run_id in run_ids:
            for event in self._waiters.get(run_id, ()):
                event.set()
        for event in self._event_waiters:
            event.set()

    async def wait_for_change(self, run_id: int, until: Callable[[], Any], wait_s: float) -> None:
        """Return when `until()` is true, at the latest after `wait_s`."""
        event = asyncio.Event()
        self._waiters.setdefault(run_id, set()).add(event)
        try:
            await _until(event, lambda: self._leaving or until(), wait_s)
        finally:
            self._waiters[run_id].discard(event)
            if not self._waiters[run_id]:
                del self._waiters[run_id]

    async def wait_for_events(self, until: Callable[[], Any], wait_s: float) -> None:
        """The same, with a look after every commit, whatever it was about."""
        event = asyncio.Event()
        self._event_waiters.add(event)
        try:
            await _until(event, lambda: self._leaving or until(), wait_s)
        finally:
            self._event_waiters.discard(event)


async def _until(event: asyncio.Event, until: Callable[[], Any], wait_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while not until():
                await event.wait()
                event.clear()
