"""One slot: a pebble pool of a single worker, given one request at a time.

Everything here belongs to the loop's thread, but for `open`, which is the builder's, `stop` and `gone`, which are the
reaper's when the slot was thrown away, and what pebble's threads call: `answered` and the launcher's `launched`, which
only put an event into the inbox.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Final

from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import Room
from batt_supervisor.core.world import SlotPhase, SlotView
from batt_supervisor.errors import SlotBroken
from batt_supervisor.jsontext import dumps
from batt_supervisor.pool import kill
from batt_supervisor.pool.inbox import Answered, Inbox, Launched
from batt_supervisor.pool.inflight import InFlight
from batt_supervisor.pool.launch import Launcher
from batt_supervisor.pool.process import Process
from batt_supervisor.pool.protocol import Exit, Request
from batt_supervisor.pool.single import SinglePool
from batt_supervisor.pool.wear import Wear
from worker import entry
from worker.report import FRAME_MAX, signal_name

HEALTH_S: Final = 0.25
"""How often a slot's threads are looked at."""


class Slot:
    """A slot from its first worker until it is thrown away.

    Attributes:
        id: Its place; a slot that replaces another has the same.
        opened: Its pool has all its threads.
        launcher: Starts its workers; its `room` is where the present one is, or the next one will be.
        phase: See SlotPhase.
        booted: Its present worker has shown a sign of life.
        trouble: Why it cannot be used any more; empty while it can.
        stumbled: Why its last worker did not come up; for the crew, which decides what comes of it.
        renewed: How many workers it has had before the present one.
        boot_since_s: Since when its present worker has been on its way, monotonic; None while there is none.
    """

    def __init__(self, slot_id: int, launcher: Launcher, inbox: Inbox, now_s: float) -> None:
        self.id = slot_id
        self.launcher = launcher
        self.phase = SlotPhase.BOOTING
        self.booted = False
        self.opened = False  # asked before, the pool would start itself, in the thread that asks
        self.trouble = ""
        self.stumbled = ""
        self.process: Process | None = None
        self.wear = Wear(launcher.places.results)
        self.renewed = -1
        self.room_since_s = self.born_s = now_s
        self.boot_since_s: float | None = None
        self._inbox = inbox
        launcher.launched = lambda process: inbox(Launched(self, process))
        self.pool = SinglePool(launcher)
        self._hello = 0  # the number of a greeting that is still to be sent
        self._request = 0  # what the pool works on; 0 for nothing
        self._died_s: float | None = None
        self._flight: InFlight | None = None  # what its present worker was given last
        self._retiring = False
        self._looked_s = now_s

    @property
    def room(self) -> Room:
        return self.launcher.room

    def view(self, now_s: float) -> SlotView:
        spent = ""
        if self.phase is SlotPhase.IDLE and self.process is not None:
            spent = self.process.outdated() or self.wear.spent(now_s)
        age_s = now_s - self.born_s
        return SlotView(self.id, self.phase, self.room, self.wear.served, self.room_since_s, spent, age_s)

    def open(self) -> None:
        """Start the pool's threads and its worker: in the builder's thread, for it may wait, or be refused."""
        if not self.pool.active:
            raise SlotBroken("the pool did not start")

    # Events

    def on_launched(self, process: Process, hello: int, now_s: float) -> list[Exit]:
        """A worker has been started; ask it for a sign of life, which it gives when it has booted.

        pebble's threads may see a worker's death first, and start the next one before it was seen here.
        """
        exits = []
        if self.process is not None:
            if self._died_s is None:
                self.on_death(now_s)
            if self.phase is SlotPhase.BUSY:
                exits = self._over(done=False)
            self.process.close()
        self.process, self._died_s, self._flight = process, None, None
        self.renewed, self.booted, self._retiring = self.renewed + 1, False, False
        self.wear.renew(process.stamps)
        self.boot_since_s = self.born_s = now_s
        self.phase = SlotPhase.BOOTING
        self._hello = hello
        if process.room == self.room:
            self.greet()
        else:  # forked before a `move`: it is of no use here
            self._hello, self._retiring = 0, True
            self._end_worker()
        return exits

    def greet(self) -> None:
        """Ask a new worker for a sign of life, once the pool has all its threads."""
        if self.opened and self._hello:
            number, self._hello = self._hello, 0
            self._schedule(number, [])

    def on_answer(self, answer: Answered) -> list[Exit]:
        """The pool has resolved a request; the ends of attempts that this tells."""
        if answer.request != self._request:
            return []
        if isinstance(answer.error, BrokenProcessPool):
            self.trouble = f"its pool broke: {answer.error or type(answer.error).__name__}"
        elif answer.error is not None and self._flight is not None and self.living():
            self._flight.failed = f"its worker could not serve it: {type(answer.error).__name__}: {answer.error}"
        return self._over(done=answer.error is None)

    def _harvest(self, flight: InFlight) -> list[Exit]:
        """Ends of attempts whose reports lie on the board."""
        exits, why = flight.harvest(living=self.living())
        if why:
            self.trouble = self.trouble or why  # its pipe may hold what was no message, either
            self._end_worker()
            exits += flight.give_up(why)
        return exits

    def on_death(self, now_s: float) -> None:
        """The worker's process has ended, and so has what it left behind. A report of it may lie on its board."""
        if self._died_s is None:
            self._died_s = now_s
            if self.phase is SlotPhase.BOOTING and not self._retiring and not self.stumbled:
                self.stumbled = f"its worker died while it booted: {self._exit_text()}"
            self.boot_since_s = None
            self.pool.look()

    def _exit_text(self) -> str:
        process = self.process
        code = process.exit_code() if process else None
        if process is None or code is None:
            return "no exit code"
        if process.orphaned:
            return "its nursery ended"
        return f"exit code {code}" if code >= 0 else signal_name(-code)

    def check(self, now_s: float) -> list[Exit]:
        """Notice what nobody reports: a silent death, a pool with a dead thread, a report within a pack."""
        if now_s - self._looked_s >= HEALTH_S or self._died_s is not None:
            self._looked_s = now_s
            if self.opened and not self.trouble and not self.pool.active:
                self.trouble = "its pool is no longer active"
            if self.process is not None and self._died_s is None and self.process.exit_code() is not None:
                self.on_death(now_s)
        if self.phase is SlotPhase.BUSY and self._flight is not None:
            if self._flight.is_overdue(now_s):
                self.trouble = "its pool does not say that it is done"
            # What the worker had finished is on the board: its death needs no second word.
            if self._died_s is not None or self.trouble:
                return self._over(done=False)
            return self._harvest(self._flight)
        if self._died_s is not None:
            self.phase = SlotPhase.BOOTING  # the pool starts the next worker
        return []

    def _over(self, *, done: bool) -> list[Exit]:
        """The request in flight has ended: reports first, then the attempt it ended in, then those it never began."""
        self._request = 0
        flight = self._flight
        if self.phase is not SlotPhase.BUSY or flight is None:
            if done and self.phase is SlotPhase.BOOTING and not self._retiring and self._died_s is None:
                self.phase, self.booted, self.boot_since_s = SlotPhase.IDLE, True, None
            return []
        exits = self._harvest(flight)
        if not done and not flight.ended:
            exits.append(self._unreported(flight))
        exits += flight.give_back()
        usable = done and self._died_s is None and not self.trouble
        self.phase = SlotPhase.IDLE if usable else SlotPhase.BOOTING
        self._retiring = self._retiring or not usable
        return exits

    def _unreported(self, flight: InFlight) -> Exit:
        """The end of an attempt that its worker said nothing of."""
        exit_code = flight.worker.exit_code()
        if exit_code is None:
            # The slot broke under a worker that lives: nobody can reach it any more.
            self._end_worker()
        return flight.unreported(exit_code, died_s=self._died_s, trouble=self.trouble, spoiled=self.pool.spoiled())

    # Orders

    def send(self, requests: Sequence[Request]) -> None:
        """Start attempts, one after another.

        Raises:
            SlotBroken: The pool takes no work; nothing was started.
            OSError: The request is one for a file, and that cannot be written; nothing was started.
        """
        assert self.process is not None
        self.process.board.clear()
        group = self.launcher.group
        if group is not None:
            group.limit(requests[0].memory_limit, requests[0].thread_limit)
        self.phase, self._flight = SlotPhase.BUSY, InFlight(self.id, self.process, group, requests, self.wear.learn)
        try:
            self._schedule(requests[-1].serial, [{**request.body, "serial": request.serial} for request in requests])
        except OSError:
            self.phase, self._flight = SlotPhase.IDLE, None
            raise
        if self.trouble:
            self.phase, self._flight = SlotPhase.BOOTING, None
            raise SlotBroken(self.trouble)

    def called(self, serial: int) -> float | None:
        """When the attempt's function was called, monotonic; None: not yet."""
        return self._flight.called(serial) if self._flight else None

    def returned(self, serial: int) -> float | None:
        """When only the attempt's result was left to be written to the disk, monotonic; None: not yet."""
        return self._flight.returned(serial) if self._flight else None

    def sample(self, serial: int, memory_limit: int | None) -> Sample | None:
        """What the attempt uses now; None when it is not the current one, or has ended."""
        return self._flight.sample(serial, memory_limit, living=self.living()) if self._flight else None

    def progress(self) -> tuple[float, float] | None:
        """What the current attempt has said of its progress."""
        return self.process.board.read_progress() if self.process and self.phase is SlotPhase.BUSY else None

    def ask_stacks(self, serial: int) -> None:
        """Have the stacks of all threads of the attempt's worker written into its log."""
        if self._flight is not None:
            self._flight.ask_stacks(serial)

    def take_back(self) -> list[Exit]:
        """Take back those attempts of a pack that its worker has not begun."""
        return self._flight.take_back() if self._flight else []

    def living(self) -> bool:
        """Whether it has a worker whose process has not been seen to end."""
        return self.process is not None and self._died_s is None

    def end(self, serial: int) -> None:
        """Kill the worker's tree, if it is still at this request. Its death is told by its nursery."""
        flight = self._flight
        if flight is not None and flight.is_at(serial) and flight.worker.exit_code() is None:
            flight.called(serial)  # the board says what the worker had used before
            flight.note_kill(serial, self._end_worker())

    def _end_worker(self) -> kill.Usage | None:
        if self.process is None or self.process.exit_code() is not None:
            return None
        return kill.end(self.process.id.pid, self.launcher.group)

    def renew(self, room: Room, now_s: float) -> None:
        """Have an idle worker replaced, the next one being started in `room`."""
        self.move(room, now_s)
        self._retiring = True
        self.phase = SlotPhase.BOOTING
        self._end_worker()

    def distrust(self) -> None:
        """Compare what its worker has loaded with the disk before it is used again."""
        self.wear.distrust()

    def move(self, room: Room, now_s: float) -> None:
        """Have the next worker started in `room`."""
        if room != self.room:
            self.launcher.room = room
            self.launcher.not_before_s = 0.0
            self.room_since_s = now_s
            self.pool.look()

    def _schedule(self, number: int, items: list[dict[str, Any]]) -> None:
        """Hand the worker a request; where that fails, `trouble` says why, and the slot is replaced.

        Raises:
            OSError: A file for it cannot be written; that is not the slot's fault.
        """
        assert self.process is not None
        frame = dumps({"to": self.process.number, "items": items}).encode()
        if len(frame) > FRAME_MAX:
            frame = self._spilled(frame)
        self._request = number
        try:
            if not self.opened:
                raise RuntimeError("it has not started")  # asked now, it would, in this thread
            future: Future[None] = self.pool.schedule(entry.serve, args=(frame,))
        except (RuntimeError, OSError) as error:
            self.trouble = f"its pool takes no work: {error}"
            return
        future.add_done_callback(partial(self.answered, number))

    def _spilled(self, frame: bytes) -> bytes:
        path = self.launcher.places.results / f"request-{self.id}.json"
        path.write_bytes(frame)
        return b"@" + os.fsencode(path)

    def answered(self, number: int, future: Future[None]) -> None:
        self._inbox(Answered(self, number, future.exception()))

    # The end

    def stop(self) -> None:
        """End the worker and tell the pool's threads to go; `gone` says when they have."""
        self._end_worker()
        self.pool.stop()

    def gone(self) -> bool:
        """Whether all of the pool's threads have ended; its pipes are then closed and its last worker is ended."""
        if not self.pool.gone():
            return False
        for pid in self.pool.late():
            kill.end(pid, self.launcher.group)  # started by a thread that had not heard of the end yet
            return False
        if self.process is not None and self.process.exit_code() is None:
            return False
        self.pool.shut()
        if self.process is not None:
            self.process.close()
            self.process = None
        return self.launcher.group is None or self.launcher.group.remove()
