"""One slot: a pebble pool of a single worker, given one request at a time.

Everything here belongs to the loop's thread, except `answered` and `launched`, which pebble's threads call and which
only put an event into the inbox.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pebble

from batt_supervisor.core.model import Room
from batt_supervisor.core.plan import SlotPhase, SlotView
from batt_supervisor.errors import SlotBroken
from batt_supervisor.pool import kill
from batt_supervisor.pool.launch import Launcher, Process
from batt_supervisor.pool.protocol import Exit, Request
from worker import entry, fresh
from worker.report import FRAME_MAX, signal_name

SILENCE_S: Final = 1.0
"""How long after its worker's death a slot waits for the pool's own word: a result may still be in the pipe. pebble
looks every 0.1 s, and says nothing at all of a worker that left with exit code 0."""

HEALTH_S: Final = 0.25
"""How often a slot's threads are looked at."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The pool resolved a request: with the worker's report, or with what went wrong."""

    slot: Slot
    serial: int
    report: bytes | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Launched:
    """The pool started a worker."""

    slot: Slot
    process: Process


Inbox = Callable[[Answered | Launched], None]


class Slot:
    """A slot from its first worker until it is thrown away.

    Attributes:
        id: Its place; a slot that replaces another has the same.
        room: Where its worker is, or will be.
        phase: See SlotPhase.
        trouble: Why it cannot be used any more; empty while it can.
        renewed: How many workers it has had before the present one.
    """

    def __init__(self, slot_id: int, launcher: Launcher, max_tasks: int, inbox: Inbox, now_s: float) -> None:
        self.id = slot_id
        self.phase = SlotPhase.BOOTING
        self.trouble = ""
        self.process: Process | None = None
        self.served = 0
        self.renewed = -1
        self.room_since_s = now_s
        self.boot_since_s = now_s
        self._inbox = inbox
        self._launcher = launcher
        launcher.launched = lambda process: inbox(Launched(self, process))
        # The backstop behind battd's own recycling; a request of ours to a new worker counts as a task, too.
        context: Any = launcher  # its locks are not multiprocessing's, on purpose
        self.pool: Any = pebble.ProcessPool(
            max_workers=1, max_tasks=max_tasks * 2 + 10 if max_tasks else 0, context=context
        )
        self._serial = 0  # of the request in flight
        self._log_from = 0
        self._died_s: float | None = None
        self._killed: kill.Usage | None = None
        self._cpu_before_s = 0.0
        self._stamps: dict[str, fresh.Stamp] = {}
        self._recycle = ""
        self._retiring = False
        self._looked_s = now_s

    @property
    def room(self) -> Room:
        return self._launcher.room

    def view(self) -> SlotView:
        return SlotView(self.id, self.phase, self.room, self.served, self.room_since_s, self._spent())

    def open(self) -> None:
        """Start the pool's threads and its worker: in the builder's thread, for it may wait, or be refused."""
        if not self.pool.active:
            raise SlotBroken("the pool did not start")

    # Events

    def on_launched(self, process: Process, hello: int, now_s: float) -> Exit | None:
        """A worker has been started; ask it for a sign of life, which it gives when it has booted.

        pebble replaces a worker that left with exit code 0 without a word about what it was doing; then this is the
        first sign of that attempt's end.
        """
        found = self._over(None) if self.phase is SlotPhase.BUSY else None
        if self.process is not None:
            self.process.close()
        self.process, self._died_s, self._killed = process, None, None
        self.served, self.renewed = 0, self.renewed + 1
        self._stamps, self._recycle, self._retiring = {}, "", False
        self.boot_since_s = now_s
        self.phase = SlotPhase.BOOTING
        with suppress(SlotBroken):  # noted in `trouble`; the slot is replaced
            self._schedule(hello, {"op": "hello"})
        return found

    def on_answer(self, answer: Answered) -> Exit | None:
        """The pool has resolved a request; an Exit when it was an attempt's."""
        if answer.serial != self._serial:
            return None
        if answer.report is not None:
            return self._on_report(json.loads(answer.report))
        if isinstance(answer.error, (BrokenProcessPool, RuntimeError)):
            self.trouble = f"its pool broke: {answer.error or type(answer.error).__name__}"
        return self._over(None)

    def _on_report(self, report: dict[str, Any]) -> Exit | None:
        if self.phase is SlotPhase.BOOTING:
            self._serial, self.phase = 0, SlotPhase.IDLE
            return None
        for path, stamp in report.pop("modules", {}).items():
            self._stamps[path] = (stamp[0], stamp[1], stamp[2], stamp[3])
        self._recycle = report.pop("recycle", "")
        self.served += 1
        return self._over(report)

    def on_death(self, now_s: float) -> None:
        """The worker's process has ended. A report of it may still be on its way."""
        if self._died_s is None:
            self._died_s = self.boot_since_s = now_s
            if self.phase is SlotPhase.BOOTING and not self._retiring:
                self.trouble = f"its worker died while it booted: {self._exit_text()}"

    def _exit_text(self) -> str:
        code = self.process.exit_code() if self.process else None
        if code is None:
            return "no exit code"
        return f"exit code {code}" if code >= 0 else signal_name(-code)

    def check(self, now_s: float) -> Exit | None:
        """Notice what nobody reports: a silent death, a pool with a dead thread."""
        if now_s - self._looked_s >= HEALTH_S or self._died_s is not None:
            self._looked_s = now_s
            if not self.trouble and not self.pool.active:
                self.trouble = "its pool is no longer active"
        silent = self._died_s is not None and (self._killed is not None or now_s - self._died_s > SILENCE_S)
        if self.phase is SlotPhase.BUSY and (silent or self.trouble):
            return self._over(None)
        if self._died_s is not None and self.phase is not SlotPhase.BUSY:
            self.phase = SlotPhase.BOOTING  # pebble starts the next worker at its next look
        return None

    def _over(self, report: dict[str, Any] | None) -> Exit | None:
        """The request in flight has ended. None where it was none of an attempt's."""
        serial, self._serial = self._serial, 0
        if self.phase is not SlotPhase.BUSY:
            return None
        process = self.process
        exit_code = None
        if report is None and process is not None:
            exit_code = process.exit_code()
            if exit_code is None:
                # The slot broke under a worker that lives: nobody can reach it any more.
                self._killed = self._killed or kill.end_tree(process.id.pid)
        alive = report is not None and self._died_s is None
        self.phase = SlotPhase.IDLE if alive and not self.trouble else SlotPhase.BOOTING
        return Exit(
            slot_id=self.id,
            serial=serial,
            report=report,
            exit_code=exit_code,
            called_s=self.called(serial),
            ended_s=self._died_s,
            broken=self.trouble if exit_code is None else "",
            cpu_s=max(0.0, self._killed.cpu_s - self._cpu_before_s) if self._killed else None,
            peak_memory_bytes=self._killed.peak_memory_bytes if self._killed else None,
            worker=process.id if process else None,
            log_from=self._log_from,
            log_to=self._log_size(),
        )

    # Orders

    def send(self, request: Request) -> None:
        """Start an attempt.

        Raises:
            SlotBroken: The pool takes no work; nothing was started.
        """
        self.phase = SlotPhase.BUSY
        self._log_from = self._log_size()
        self._killed = None
        try:
            self._schedule(request.serial, request.body)
        except SlotBroken:
            self.phase = SlotPhase.BOOTING
            raise

    def called(self, serial: int) -> float | None:
        """When the attempt's function was called, monotonic; None: not yet."""
        call = self.process.board.read_call(serial) if self.process else None
        if call is None:
            return None
        self._cpu_before_s = call[1]
        return call[0]

    def living(self) -> bool:
        """Whether its worker's process has not been seen to end."""
        return self._died_s is None

    def end(self, serial: int) -> None:
        """Kill the worker's tree, if it is still at this request. Its death is reported by its pidfd."""
        if self.process is not None and self._died_s is None and self._serial == serial:
            self.called(serial)
            self._killed = kill.end_tree(self.process.id.pid)

    def renew(self, room: Room, pill: int, now_s: float) -> None:
        """Have an idle worker replaced, the next one being started in `room`."""
        if room != self.room:
            self._launcher.room = room
            self.room_since_s = now_s
        self._retiring = True
        self.phase = SlotPhase.BOOTING
        self.boot_since_s = now_s
        self._schedule(pill, {"op": "pill"})

    def _schedule(self, serial: int, body: dict[str, Any]) -> None:
        frame = json.dumps({**body, "serial": serial}, separators=(",", ":")).encode()
        if len(frame) > FRAME_MAX:
            frame = self._spilled(serial, frame)
        self._serial = serial
        try:
            future: Future[bytes] = self.pool.schedule(entry.serve, args=(frame,))
        except (RuntimeError, OSError) as error:
            self.trouble = f"its pool takes no work: {error}"
            raise SlotBroken(self.trouble) from error
        future.add_done_callback(partial(self.answered, serial))

    def _spilled(self, serial: int, frame: bytes) -> bytes:
        path = self._launcher.places.results / f"request-{self.id}.json"
        path.write_bytes(frame)
        return b"@" + os.fsencode(path)

    def answered(self, serial: int, future: Future[bytes]) -> None:
        error = future.exception()
        self._inbox(Answered(self, serial, None if error else future.result(), error))

    def _log_size(self) -> int:
        return os.fstat(self.process.log_fd).st_size if self.process is not None else 0

    def _spent(self) -> str:
        if self.phase is not SlotPhase.IDLE:
            return ""
        if self._recycle:
            return self._recycle
        changed = next((path for path, stamp in self._stamps.items() if fresh.stamp(path) != stamp), None)
        return f"{changed} has changed on disk since it was loaded" if changed else ""

    # The end

    def threads(self) -> list[threading.Thread]:
        """pebble's threads of this slot; fewer than three when it could start only some of them."""
        pool = self.pool
        loops = (pool._task_scheduler_loop, pool._pool_manager_loop, pool._message_manager_loop)
        return [loop for loop in loops if loop is not None]

    def stop(self) -> None:
        """End the worker and tell the pool's threads to go; `gone` says when they have."""
        if self.process is not None and self._died_s is None:
            kill.end_tree(self.process.id.pid)
        self.pool.stop()
        self.pool._context.task_queue.put(None)

    def gone(self) -> bool:
        """Whether all of the pool's threads have ended; its pipes are then closed and its last worker is ended."""
        if any(thread.is_alive() for thread in self.threads()):
            return False
        manager = self.pool._pool_manager
        for child in list(manager.worker_manager.workers.values()):
            if child.is_alive() and child.pid is not None:
                kill.end_tree(child.pid)  # started by a thread that had not heard of the end yet
        if manager.worker_manager.pool_channel is not None:
            manager.stop()
        if self.process is not None:
            self.process.close()
            self.process = None
        return True
