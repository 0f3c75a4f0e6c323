"""One slot: a pebble pool of a single worker, given one request at a time.

Everything here belongs to the loop's thread, except `answered` and `launched`, which pebble's threads call and which
only put an event into the inbox.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from batt_supervisor.core.limits import ASK_S, Sample
from batt_supervisor.core.model import Outcome, Room
from batt_supervisor.core.world import SlotPhase, SlotView
from batt_supervisor.errors import SlotBroken
from batt_supervisor.pool import kill, proc, reports
from batt_supervisor.pool.group import QUIET, Events
from batt_supervisor.pool.launch import Launcher
from batt_supervisor.pool.process import Process
from batt_supervisor.pool.protocol import Exit, Request
from batt_supervisor.pool.single import SinglePool
from batt_supervisor.pool.usage import measure
from worker import boot, entry, fresh
from worker.report import FRAME_MAX, signal_name

HEALTH_S: Final = 0.25
"""How often a slot's threads are looked at."""

SILENCE_S: Final = 5.0
"""How long a pool may take to say that a request is done whose reports are all there."""

STAMPS_S: Final = 0.1
"""How often the files that an idle worker has loaded are compared with those on disk, if no new run has come since."""


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


@dataclass(frozen=True, slots=True)
class Opened:
    """The pool has all its threads."""

    slot: Slot


Inbox = Callable[[Answered | Launched | Opened], None]


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
        self.served = 0
        self.renewed = -1
        self.room_since_s = self.born_s = now_s
        self.boot_since_s: float | None = None
        self._inbox = inbox
        launcher.launched = lambda process: inbox(Launched(self, process))
        self.pool = SinglePool(launcher)
        self._hello = 0  # the number of a greeting that is still to be sent
        self._request = 0  # what the pool works on; 0 for nothing
        self._sent: deque[int] = deque()  # serials of its attempts that have not ended yet
        self._read = 0  # position behind the last report read from the board
        self._told_s = now_s  # when a report was last waited for
        self._log_from = 0
        self._died_s: float | None = None
        self._killed: kill.Usage | None = None
        self._killed_for = 0  # the attempt that was to be ended
        self._before = (0.0, 0.0)  # CPU and waiting seconds of the worker before the attempt was called
        self._output_limit: int | None = None
        self._packed = False  # what it was given last was more than one attempt
        self._sent_s = now_s
        self._events: Events = QUIET
        self._thread_limit: int | None = None  # that its control group has
        self._stamps: dict[str, fresh.Stamp] = {}
        self._compared_s = 0.0
        self._changed = ""
        self._recycle = ""
        self._failed = ""  # why the pool has resolved the request with an error, though the worker lives
        self._retiring = False
        self._looked_s = now_s

    @property
    def room(self) -> Room:
        return self.launcher.room

    def view(self, now_s: float) -> SlotView:
        return SlotView(
            self.id, self.phase, self.room, self.served, self.room_since_s, self._spent(now_s), now_s - self.born_s
        )

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
        self.process, self._died_s, self._killed = process, None, None
        self.served, self.renewed, self.booted = 0, self.renewed + 1, False
        self._stamps, self._changed, self._recycle, self._retiring = dict(process.stamps), "", "", False
        self.boot_since_s = self.born_s = now_s
        self.phase = SlotPhase.BOOTING
        self._hello = hello
        self.greet()
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
        elif answer.error is not None and self._sent and self.living():
            self._failed = f"its worker could not serve it: {type(answer.error).__name__}: {answer.error}"
        return self._over(done=answer.error is None)

    def harvest(self) -> list[Exit]:
        """Ends of attempts whose reports lie on the board."""
        exits: list[Exit] = []
        if self.process is None or not self._sent:
            return exits
        for data, position in self.process.board.read_reports(self._read):
            self._read = position
            try:
                if not self._sent:
                    raise ValueError("it tells of more attempts than it was given")
                report = reports.read(data, self._sent[0])
                self._learn(report)
            except (ValueError, TypeError, OSError) as error:
                # Somebody has written over the board. Nothing on it can be believed any more.
                return exits + self._give_up_on_sent(f"its board cannot be read: {error}")
            self.served += 1
            serial = self._sent.popleft()
            number, log_from, self._log_from = report.log
            exits.append(
                Exit(
                    slot_id=self.id,
                    serial=serial,
                    report=report.told,
                    called_s=self.called(serial),
                    pressed=QUIET if report.told["outcome"] == Outcome.OK else self._pressed(),
                    worker=replace(self.process.id, log=self.process.log_name(number)),
                    log_from=log_from,
                    log_to=self._log_from,
                )
            )
        return exits

    def _give_up_on_sent(self, why: str) -> list[Exit]:
        """Ends of attempts of which nobody can say how far they came, but that the first of them was under way."""
        self.trouble = self.trouble or why  # its pipe may hold what was no message, either
        self._end_worker()
        exits = [Exit(self.id, serial, None, broken=why) for serial in self._sent]
        if exits:
            exits[0] = replace(exits[0], failed=why)
        self._sent.clear()
        return exits

    def _learn(self, report: reports.Report) -> None:
        """Note what a report says of the worker itself."""
        modules = report.modules
        if report.modules_file:
            path = self.launcher.places.results / report.modules_file
            modules = json.loads(path.read_bytes())
            path.unlink()
        for name, stamp in modules.items():
            self._stamps[name] = (stamp[0], stamp[1], stamp[2], stamp[3])
        self._recycle = report.recycle or self._recycle

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
        if self.phase is SlotPhase.BUSY and not self._sent and now_s - self._told_s > SILENCE_S:
            self.trouble = "its pool does not say that it is done"
        if self.phase is SlotPhase.BUSY:
            # What the worker had finished is on the board: its death needs no second word.
            if self._died_s is not None or self.trouble:
                return self._over(done=False)
            if self._sent:
                self._told_s = now_s
            return self.harvest()
        if self._died_s is not None:
            self.phase = SlotPhase.BOOTING  # the pool starts the next worker
        return []

    def _over(self, *, done: bool) -> list[Exit]:
        """The request in flight has ended: reports first, then the attempt it ended in, then those it never began."""
        exits = self.harvest()
        self._request = 0
        if self.phase is not SlotPhase.BUSY:
            if done and self.phase is SlotPhase.BOOTING and not self._retiring and self._died_s is None:
                self.phase, self.booted, self.boot_since_s = SlotPhase.IDLE, True, None
            return exits
        if not done and self._sent:
            exits.append(self._unreported(self._sent.popleft()))
        exits += [Exit(self.id, serial, None, requeue=True) for serial in self._sent]
        self._sent.clear()
        usable = done and self._died_s is None and not self.trouble
        self.phase = SlotPhase.IDLE if usable else SlotPhase.BOOTING
        self._retiring = self._retiring or not usable
        return exits

    def _unreported(self, serial: int) -> Exit:
        """The end of an attempt that its worker said nothing of."""
        process = self.process
        exit_code = process.exit_code() if process else None
        if exit_code is None:
            # The slot broke under a worker that lives: nobody can reach it any more.
            self._end_worker()
        broken = self.trouble or self._failed if exit_code is None else ""
        begun = process is not None and process.board.read_begun(serial)
        if self._killed is not None and self._killed_for not in (0, serial):
            # The one before it in the pack came to its end in the very moment in which it was to be killed.
            exit_code, broken = None, "its worker was ended because of another attempt"
        called_s = self.called(serial)
        killed = self._killed if self._killed_for == serial else None
        if process is not None and exit_code is not None and self._output_limit is not None:
            # It may have written far more before that was seen, and nobody writes there any more.
            size = self._log_size()
            os.ftruncate(process.log_fd, min(size, self._log_from + self._output_limit))
        return Exit(
            slot_id=self.id,
            serial=serial,
            report=None,
            exit_code=exit_code,
            called_s=called_s,
            begun=begun,
            # Its worker was dead before it had taken it up, and a request is for one worker only.
            requeue=exit_code is not None and not begun and killed is None,
            ended_s=self._died_s,
            broken=broken,
            failed=self._doing(begun) if exit_code is None else "",
            together=process is not None and process.orphaned,
            cpu_s=max(0.0, killed.cpu_s - self._before[0]) if killed else None,
            waited_s=max(0.0, killed.waited_s - self._before[1]) if killed else None,
            peak_memory_bytes=killed.peak_memory_bytes if killed else None,
            peak_threads=killed.threads if killed else None,
            pressed=self._pressed(),
            worker=process.present() if process else None,
            log_from=min(self._log_from, self._log_size()),
            log_to=self._log_size(),
        )

    def _doing(self, begun: bool) -> str:
        """What the attempt has done to its worker so that it could not go on; empty where that was not its doing."""
        # Who writes into one descriptor after the other meets the pipe, and the board, which then says nothing true.
        return self.pool.spoiled() or (self._failed if begun else "")

    def _pressed(self) -> Events:
        """What the kernel has done to the slot's control group since the request was sent."""
        group = self.launcher.group
        if group is None or (self._packed and self.living()):
            return QUIET  # nobody can say which of a pack it was
        events = group.events() - self._events
        if events.threads_refused and self._thread_limit is not None:
            # A group further out may have been full: that is no fault of the attempt.
            peak = group.peak_threads()
            if peak is not None and peak < self._thread_limit:
                return replace(events, threads_refused=0)
        return events

    # Orders

    def send(self, requests: Sequence[Request]) -> None:
        """Start attempts, one after another.

        Raises:
            SlotBroken: The pool takes no work; nothing was started.
        """
        self.phase, self._sent_s = SlotPhase.BUSY, time.monotonic()
        self._log_from, self._read, self._killed, self._killed_for = self._log_size(), 0, None, 0
        self._failed = ""
        if self.process is not None:
            self.process.board.clear()
        if self.launcher.group is not None:
            self._thread_limit = requests[0].thread_limit
            self.launcher.group.limit(requests[0].memory_limit, self._thread_limit)
            self._events = self.launcher.group.events()
        self._output_limit, self._packed = requests[0].output_limit, len(requests) > 1
        self._sent.extend(request.serial for request in requests)
        self._schedule(requests[-1].serial, [{**request.body, "serial": request.serial} for request in requests])
        if self.trouble:
            self.phase = SlotPhase.BOOTING
            self._sent.clear()
            raise SlotBroken(self.trouble)

    def called(self, serial: int) -> float | None:
        """When the attempt's function was called, monotonic; None: not yet."""
        call = self.process.board.read_call(serial) if self.process else None
        if call is None:
            return None
        self._before = call[1], call[2]
        # A deadline hangs on it, and the clock in there is one that a task may have replaced.
        return min(max(call[0], self._sent_s), time.monotonic())

    def sample(self, serial: int, memory_limit: int | None) -> Sample | None:
        """What the attempt uses now; None when it is not the current one, or has ended."""
        process = self.process
        if process is None or not self._sent or self._sent[0] != serial or self.called(serial) is None:
            return None
        tree = measure(process.id.pid, memory_limit)
        if tree is None:
            return None
        pressed = self._pressed()
        return Sample(
            cpu_s=max(0.0, tree.cpu_s - self._before[0]),
            memory_bytes=tree.memory_bytes,
            threads=tree.threads,
            output_bytes=max(0, self._log_size() - self._log_from),
            beats=process.board.read_beats(),
            threads_refused=pressed.threads_refused,
            memory_kills=pressed.oom_kills if pressed.memory_hits else 0,
        )

    def progress(self) -> tuple[float, float] | None:
        """What the current attempt has said of its progress."""
        return self.process.board.read_progress() if self.process and self.phase is SlotPhase.BUSY else None

    def ask_stacks(self, serial: int) -> None:
        """Have the worker write the stacks of its threads into its log, under a heading that says when."""
        process = self.process
        if process is None or not self._sent or self._sent[0] != serial or process.exit_code() is not None:
            return
        self._log_size()  # it may have gone over to another one
        armed = proc.handles(process.id.pid, boot.STACKS)
        said = "stacks of all threads" if armed else "no stacks: its handler for them is gone"
        os.write(process.log_fd, f"\n--- {said}, {ASK_S:g} s before its time is up ---\n".encode())
        if armed:
            process.signal(boot.STACKS)

    def take_back(self) -> list[Exit]:
        """Take back those attempts of a pack that its worker has not begun."""
        if self.process is None or len(self._sent) < 2:
            return []
        begun = self.process.board.withdraw()
        kept = self._sent.index(begun) + 1 if begun in self._sent else 1
        taken = list(self._sent)[kept:]
        for _ in taken:
            self._sent.pop()
        return [Exit(self.id, serial, None, requeue=True) for serial in taken]

    def living(self) -> bool:
        """Whether it has a worker whose process has not been seen to end."""
        return self.process is not None and self._died_s is None

    def end(self, serial: int) -> None:
        """Kill the worker's tree, if it is still at this request. Its death is told by its nursery."""
        if self.process is not None and self.process.exit_code() is None and self._sent and self._sent[0] == serial:
            self.called(serial)
            self._killed_for = serial
            self._killed = self._end_worker()

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
        self._compared_s = 0.0

    def recycle(self, why: str) -> None:
        """Let its present worker serve no further attempt."""
        self._recycle = self._recycle or why

    def move(self, room: Room, now_s: float) -> None:
        """Have the next worker started in `room`."""
        if room != self.room:
            self.launcher.room = room
            self.launcher.not_before_s = 0.0
            self.room_since_s = now_s
            self.pool.look()

    def _schedule(self, number: int, items: list[dict[str, Any]]) -> None:
        """Hand the worker a request; where that fails, `trouble` says why, and the slot is replaced."""
        assert self.process is not None
        frame = json.dumps({"to": self.process.number, "items": items}, separators=(",", ":")).encode()
        self._request = number
        try:
            if not self.opened:
                raise RuntimeError("it has not started")  # asked now, it would, in this thread
            if len(frame) > FRAME_MAX:
                frame = self._spilled(frame)
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

    def _log_size(self) -> int:
        if self.process is None:
            return 0
        if self.process.follow_log():
            self._log_from = 0
        return os.fstat(self.process.log_fd).st_size

    def _spent(self, now_s: float) -> str:
        if self.phase is not SlotPhase.IDLE:
            return ""
        if self._recycle:
            return self._recycle
        if now_s - self._compared_s >= STAMPS_S and not self._changed:
            self._compared_s = now_s
            changed = next((path for path, stamp in self._stamps.items() if fresh.stamp(path) != stamp), None)
            self._changed = f"{changed} has changed on disk since it was loaded" if changed else ""
        return self._changed

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
