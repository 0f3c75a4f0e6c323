"""One slot: a pebble pool of a single worker, given one request at a time.

Everything here belongs to the loop's thread, except `answered` and `launched`, which pebble's threads call and which
only put an event into the inbox.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pebble

from batt_supervisor.core.model import Room
from batt_supervisor.core.world import SlotPhase, SlotView
from batt_supervisor.errors import SlotBroken
from batt_supervisor.pool import kill
from batt_supervisor.pool.launch import Launcher, Process
from batt_supervisor.pool.protocol import Exit, Request
from worker import entry, fresh
from worker.report import FRAME_MAX, signal_name

HEALTH_S: Final = 0.25
"""How often a slot's threads are looked at."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The pool resolved a request: it is done, or something went wrong."""

    slot: Slot
    request: int
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
        booted: Its present worker has shown a sign of life.
        trouble: Why it cannot be used any more; empty while it can.
        renewed: How many workers it has had before the present one.
    """

    def __init__(self, slot_id: int, launcher: Launcher, inbox: Inbox, now_s: float) -> None:
        self.id = slot_id
        self.phase = SlotPhase.BOOTING
        self.booted = False
        self.opened = False  # asked before, a pool would start itself, in the thread that asks
        self.trouble = ""
        self.process: Process | None = None
        self.served = 0
        self.renewed = -1
        self.room_since_s = now_s
        self.boot_since_s = now_s
        self._inbox = inbox
        self._launcher = launcher
        launcher.launched = lambda process: inbox(Launched(self, process))
        context: Any = launcher  # its locks are not multiprocessing's, on purpose
        # No limit of pebble's own behind `max_tasks`: it cannot be changed while the pool lives, and a worker that left
        # by it under a request would have that request made twice.
        self.pool: Any = pebble.ProcessPool(max_workers=1, context=context)
        self._request = 0  # what the pool works on; 0 for nothing
        self._sent: deque[int] = deque()  # serials of its attempts that have not ended yet
        self._read = 0  # position behind the last report read from the board
        self._log_from = 0
        self._died_s: float | None = None
        self._killed: kill.Usage | None = None
        self._killed_for = 0  # the attempt that was to be ended
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
        self.opened = True

    # Events

    def on_launched(self, process: Process, hello: int, now_s: float) -> list[Exit]:
        """A worker has been started; ask it for a sign of life, which it gives when it has booted.

        pebble replaces a worker that left with exit code 0 without a word about what it was doing; then this is the
        first sign of that attempt's end.
        """
        exits = []
        if self.phase is SlotPhase.BUSY:
            if self.process is None or not (self._sent and self.process.board.read_begun(self._sent[0])):
                # The pool still holds the request, and its new worker would make what goes to another slot now.
                self.trouble = "its worker left before it took up what it was given"
                kill.end_tree(process.id.pid)
            exits = self._over(done=False)
        if self.process is not None:
            self._part_with(self.process)
        self.process, self._died_s, self._killed = process, None, None
        self.served, self.renewed, self.booted = 0, self.renewed + 1, False
        self._stamps, self._recycle, self._retiring = {}, "", False
        self.boot_since_s = now_s
        self.phase = SlotPhase.BOOTING
        with suppress(SlotBroken):  # noted in `trouble`; the slot is replaced
            self._schedule(hello, {"op": "hello"})
        return exits

    def on_answer(self, answer: Answered) -> list[Exit]:
        """The pool has resolved a request; the ends of attempts that this tells."""
        if answer.request != self._request:
            return []
        if isinstance(answer.error, (BrokenProcessPool, RuntimeError)):
            self.trouble = f"its pool broke: {answer.error or type(answer.error).__name__}"
        return self._over(done=answer.error is None)

    def harvest(self) -> list[Exit]:
        """Ends of attempts whose reports lie on the board."""
        exits: list[Exit] = []
        if self.process is None or not self._sent:
            return exits
        for data, position in self.process.board.read_reports(self._read):
            self._read = position
            try:
                report: dict[str, Any] = json.loads(data)
                if not self._sent or report["serial"] != self._sent[0]:
                    raise ValueError(f"it tells of attempt {report['serial']}, which was not next")
                self._learn(report)
                log_from, log_to = report.pop("log")
            except (ValueError, KeyError, TypeError, OSError) as error:
                # Somebody has written over the board. Nothing on it can be believed any more.
                self.trouble = f"its board cannot be read: {error}"
                return exits + self._give_up_on_sent()
            self.served += 1
            serial = self._sent.popleft()
            self._log_from = log_to
            exits.append(Exit(self.id, serial, report, worker=self.process.id, log_from=log_from, log_to=log_to))
        return exits

    def _give_up_on_sent(self) -> list[Exit]:
        """Ends of attempts of which nobody can say how far they came."""
        if self.process is not None and self.process.exit_code() is None:
            kill.end_tree(self.process.id.pid)
        exits = [Exit(self.id, serial, None, broken=self.trouble) for serial in self._sent]
        self._sent.clear()
        return exits

    def _learn(self, report: dict[str, Any]) -> None:
        """Note what a report says of the worker itself."""
        modules = report.pop("modules", {})
        if listed := report.pop("modules_file", None):
            path = self._launcher.places.results / listed
            modules = json.loads(path.read_bytes())
            path.unlink()
        for name, stamp in modules.items():
            self._stamps[name] = (stamp[0], stamp[1], stamp[2], stamp[3])
        self._recycle = report.pop("recycle", "") or self._recycle

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

    def check(self, now_s: float) -> list[Exit]:
        """Notice what nobody reports: a silent death, a pool with a dead thread, a report within a pack."""
        if now_s - self._looked_s >= HEALTH_S or self._died_s is not None:
            self._looked_s = now_s
            if self.opened and not self.trouble and not self.pool.active:
                self.trouble = "its pool is no longer active"
        if self.phase is SlotPhase.BUSY:
            # What the worker had finished is on the board: its death needs no second word.
            return self._over(done=False) if self._died_s is not None or self.trouble else self.harvest()
        if self._died_s is not None:
            self.phase = SlotPhase.BOOTING  # pebble starts the next worker at its next look
        return []

    def _over(self, *, done: bool) -> list[Exit]:
        """The request in flight has ended: reports first, then the attempt it ended in, then those it never began."""
        exits = self.harvest()
        self._request = 0
        if self.phase is not SlotPhase.BUSY:
            if done and self.phase is SlotPhase.BOOTING and not self._retiring:
                self.phase, self.booted = SlotPhase.IDLE, True
            return exits
        if not done and self._sent:
            exits.append(self._unreported(self._sent.popleft()))
        exits += [Exit(self.id, serial, None, requeue=True) for serial in self._sent]
        self._sent.clear()
        usable = done and self._died_s is None and not self.trouble
        self.phase = SlotPhase.IDLE if usable else SlotPhase.BOOTING
        return exits

    def _unreported(self, serial: int) -> Exit:
        """The end of an attempt that its worker said nothing of."""
        process = self.process
        exit_code = process.exit_code() if process else None
        if process is not None and exit_code is None:
            # The slot broke under a worker that lives: nobody can reach it any more.
            self._killed = self._killed or kill.end_tree(process.id.pid)
        broken = self.trouble if exit_code is None else ""
        if self._killed is not None and self._killed_for not in (0, serial):
            # The one before it in the pack came to its end in the very moment in which it was to be killed.
            exit_code, broken = None, "its worker was ended because of another attempt"
        called_s = self.called(serial)
        return Exit(
            slot_id=self.id,
            serial=serial,
            report=None,
            exit_code=exit_code,
            called_s=called_s,
            begun=process is not None and process.board.read_begun(serial),
            ended_s=self._died_s,
            broken=broken,
            cpu_s=max(0.0, self._killed.cpu_s - self._cpu_before_s) if self._killed else None,
            peak_memory_bytes=self._killed.peak_memory_bytes if self._killed else None,
            worker=process.id if process else None,
            log_from=self._log_from,
            log_to=self._log_size(),
        )

    # Orders

    def send(self, requests: Sequence[Request]) -> None:
        """Start attempts, one after another.

        Raises:
            SlotBroken: The pool takes no work; nothing was started.
        """
        self.phase = SlotPhase.BUSY
        self._log_from, self._read, self._killed, self._killed_for = self._log_size(), 0, None, 0
        if self.process is not None:
            self.process.board.clear()
        self._sent.extend(request.serial for request in requests)
        items = [{**request.body, "serial": request.serial} for request in requests]
        try:
            self._schedule(requests[-1].serial, {"op": "pack", "items": items})
        except SlotBroken:
            self.phase = SlotPhase.BOOTING
            self._sent.clear()
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
        if self.process is not None and self.process.exit_code() is None and self._sent and self._sent[0] == serial:
            self.called(serial)
            self._killed_for = serial
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

    def _schedule(self, number: int, body: dict[str, Any]) -> None:
        frame = json.dumps(body, separators=(",", ":")).encode()
        self._request = number
        try:
            if len(frame) > FRAME_MAX:
                frame = self._spilled(frame)
            future: Future[None] = self.pool.schedule(entry.serve, args=(frame,))
        except (RuntimeError, OSError) as error:
            self.trouble = f"its pool takes no work: {error}"
            raise SlotBroken(self.trouble) from error
        future.add_done_callback(partial(self.answered, number))

    def _spilled(self, frame: bytes) -> bytes:
        path = self._launcher.places.results / f"request-{self.id}.json"
        path.write_bytes(frame)
        return b"@" + os.fsencode(path)

    def answered(self, number: int, future: Future[None]) -> None:
        self._inbox(Answered(self, number, future.exception()))

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
        if self.process is not None and self.process.exit_code() is None:
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
            self._part_with(self.process)
            self.process = None
        return True

    def _part_with(self, process: Process) -> None:
        """Let go of a worker that has ended; a log in which nothing was written goes with it."""
        if not os.fstat(process.log_fd).st_size:
            (self._launcher.places.logs / process.id.log).unlink(missing_ok=True)
        process.close()
