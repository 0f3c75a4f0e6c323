"""A request in flight: the attempts that a slot's worker has been given, from the sending until all of them have ended.

It reads on the worker's board how far they have come, measures the one that is under way, and tells how each has ended.
It ends nobody: that is the slot's. All of it belongs to the loop's thread.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from batt_supervisor.core.limits import ASK_S, Sample
from batt_supervisor.core.model import Outcome
from batt_supervisor.pool import proc, reports
from batt_supervisor.pool.group import QUIET, Events, Group
from batt_supervisor.pool.kill import Usage
from batt_supervisor.pool.process import Process
from batt_supervisor.pool.protocol import Exit, Request
from batt_supervisor.pool.usage import measure
from worker import boot

SILENCE_S: Final = 5.0
"""How long a pool may take to say that a request is done whose reports are all there."""


class InFlight:
    """Attempts that were sent to a worker together, to be made one after another.

    Made just before they are sent, when the board has been cleared and the control group limited for them.

    Args:
        slot_id: The slot whose worker it is.
        group: The control group that it is in.
        requests: The attempts; those of a pack have the same limits.
        learn: Called with each report, for what it says of the worker itself.

    Attributes:
        worker: Who has them; nobody else ever gets this request.
        failed: Why the pool has resolved the request with an error, though the worker lives.
    """

    def __init__(
        self,
        slot_id: int,
        worker: Process,
        group: Group | None,
        requests: Sequence[Request],
        learn: Callable[[reports.Report], None],
    ) -> None:
        self.failed = ""
        self._slot_id, self.worker, self._group, self._learn = slot_id, worker, group, learn
        self._left = deque(request.serial for request in requests)  # attempts that have not ended yet
        self._attempts = {request.serial: request.attempt for request in requests}
        self._packed = len(requests) > 1
        self._output_limit, self._thread_limit = requests[0].output_limit, requests[0].thread_limit
        self._sent_s = time.monotonic()
        self._told_s = self._sent_s  # when a report was last waited for
        self._read = 0  # position behind the last report read from the board
        self._before = (0.0, 0.0)  # CPU and waiting seconds of the worker before the attempt was called
        self._events = group.events() if group is not None else QUIET
        self._killed: tuple[int, Usage] | None = None  # the attempt that was to be ended, and what the tree had used
        worker.follow_log()
        self._logged = worker.rolled, self._log_size()  # number of a log, and where what is the next attempt's begins

    @property
    def ended(self) -> bool:
        """Whether all of its attempts have ended."""
        return not self._left

    def is_at(self, serial: int) -> bool:
        """Whether this attempt is the current one: begun, or the next to be."""
        return bool(self._left) and self._left[0] == serial

    def is_overdue(self, now_s: float) -> bool:
        """Whether all of its reports have long been there, and the pool still works on it."""
        if self._left:
            self._told_s = now_s
        return now_s - self._told_s > SILENCE_S

    # How far it has come

    def called(self, serial: int) -> float | None:
        """When the attempt's function was called, monotonic; None: not yet."""
        call = self.worker.board.read_call(serial)
        if call is None:
            return None
        self._before = call[1], call[2]
        # A deadline hangs on it, and the clock in there is one that a task may have replaced.
        return min(max(self._sent_s, call[0]), time.monotonic())  # in this order, NaN is no time either

    def returned(self, serial: int) -> float | None:
        """When only the attempt's result was left to be written to the disk, monotonic; None: not yet."""
        returned_s = self.worker.board.read_return(serial)
        return None if returned_s is None else min(max(self._sent_s, returned_s), time.monotonic())

    def sample(self, serial: int, memory_limit: int | None, *, living: bool) -> Sample | None:
        """What the attempt uses now; None when it is not the current one, or has ended."""
        if not self.is_at(serial) or self.called(serial) is None:
            return None
        tree = measure(self.worker.id.pid, memory_limit)
        if tree is None:
            return None
        pressed = self._pressed(living)
        return Sample(
            cpu_s=max(0.0, tree.cpu_s - self._before[0]),
            memory_bytes=tree.memory_bytes,
            threads=tree.threads,
            output_bytes=self._output_bytes(),
            beats=self.worker.board.read_beats(),
            threads_refused=pressed.threads_refused,
            memory_kills=pressed.oom_kills if pressed.memory_hits else 0,
        )

    def ask_stacks(self, serial: int) -> None:
        """Have the worker write the stacks of its threads into its log, under a heading that says when."""
        worker = self.worker
        if not self.is_at(serial) or worker.exit_code() is not None:
            return
        worker.follow_log()
        armed = proc.handles(worker.id.pid, boot.STACKS)
        said = "stacks of all threads" if armed else "no stacks: its handler for them is gone"
        with suppress(OSError):  # a full disk takes neither this line nor the stacks
            os.write(worker.log_fd, f"\n--- {said}, {ASK_S:g} s before its time is up ---\n".encode())
        if armed:
            worker.signal(boot.STACKS)

    def _pressed(self, living: bool) -> Events:
        """What the kernel has done to the slot's control group since the request was sent."""
        if self._group is None or (self._packed and living):
            return QUIET  # nobody can say which of a pack it was
        events = self._group.events() - self._events
        if events.threads_refused and self._thread_limit is not None:
            # A group further out may have been full: that is no fault of the attempt.
            peak = self._group.peak_threads()
            if peak is not None and peak < self._thread_limit:
                return replace(events, threads_refused=0)
        return events

    def _output_bytes(self) -> int:
        self.worker.follow_log()
        return max(0, self._log_size() - self._log_from())

    def _log_from(self) -> int:
        """Where the output of the current attempt begins, in the log that was followed last."""
        number, end = self._logged
        if number == self.worker.rolled:
            return end  # the attempt before it has, or may have, written into the same one
        return 0 if number < self.worker.rolled else self._log_size()  # the log that it has could not be opened

    def _log_size(self) -> int:
        return os.fstat(self.worker.log_fd).st_size

    # How its attempts end

    def harvest(self, *, living: bool) -> tuple[list[Exit], str]:
        """Ends of attempts whose reports lie on the board; and why nothing on it can be believed any more, if so."""
        exits: list[Exit] = []
        if not self._left:
            return exits, ""
        for data, position in self.worker.board.read_reports(self._read):
            self._read = position
            try:
                if not self._left:
                    raise ValueError("it tells of more attempts than it was given")
                report = reports.read(data, self._left[0], self._attempts[self._left[0]])
                self._learn(report)
            except (ValueError, OSError) as error:
                return exits, f"its board cannot be read: {error}"  # somebody has written over it
            serial = self._left.popleft()
            number, log_from, log_to = report.log
            self._logged = number, log_to
            exits.append(
                Exit(
                    slot_id=self._slot_id,
                    serial=serial,
                    report=report.told,
                    called_s=self.called(serial),
                    pressed=QUIET if report.told["outcome"] == Outcome.OK else self._pressed(living),
                    worker=self.worker.at_log(number),
                    log_from=log_from,
                    log_to=log_to,
                )
            )
        return exits, ""

    def give_up(self, why: str) -> list[Exit]:
        """Ends of attempts of which nobody can say how far they came, but that the first of them was under way."""
        exits = [Exit(self._slot_id, serial, None, broken=why) for serial in self._left]
        if exits:
            exits[0] = replace(exits[0], failed=why)
        self._left.clear()
        return exits

    def give_back(self, kept: int = 0) -> list[Exit]:
        """Ends of all but the first few attempts, which the worker has not begun and never will."""
        given = list(self._left)[kept:]
        for _ in given:
            self._left.pop()
        return [Exit(self._slot_id, serial, None, requeue=True) for serial in given]

    def take_back(self) -> list[Exit]:
        """Take back those attempts of a pack that the worker has not begun."""
        if len(self._left) < 2:
            return []
        begun = self.worker.board.withdraw()
        return self.give_back(self._left.index(begun) + 1 if begun in self._left else 1)

    def note_kill(self, serial: int, usage: Usage | None) -> None:
        """The worker's tree was killed to end this attempt; None: it had ended before."""
        self._killed = (serial, usage) if usage is not None else None

    def unreported(self, exit_code: int | None, *, died_s: float | None, trouble: str, spoiled: str) -> Exit:
        """The end of the current attempt, of which its worker said nothing.

        Args:
            exit_code: The worker's; None: the slot broke under a worker that lives, and nobody can reach it any more.
            died_s: When the worker was seen to be dead.
            trouble: Why the slot broke.
            spoiled: What was written into the pool's pipe, if that was no message.
        """
        serial, worker = self._left.popleft(), self.worker
        broken = trouble or self.failed if exit_code is None else ""
        begun = worker.board.read_begun(serial)
        killed_for, killed = self._killed or (serial, None)
        if killed_for != serial:
            # The one before it in the pack came to its end in the very moment in which it was to be killed.
            exit_code, broken, killed = None, "its worker was ended because of another attempt", None
        called_s = self.called(serial)
        worker.follow_log()  # it may have died before it was ever looked at
        log_from = self._log_from()
        if exit_code is not None and self._output_limit is not None:
            # It may have written far more before that was seen, and nobody writes there any more.
            with suppress(OSError):
                os.ftruncate(worker.log_fd, min(self._log_size(), log_from + self._output_limit))
        # Who writes into one descriptor after the other meets the pipe, and the board, which then says nothing true.
        failed = spoiled or (self.failed if begun else "")
        return Exit(
            slot_id=self._slot_id,
            serial=serial,
            report=None,
            exit_code=exit_code,
            called_s=called_s,
            ended_s=died_s,
            begun=begun,
            # Its worker was dead before it had taken it up, and a request is for one worker only.
            requeue=exit_code is not None and not begun and killed is None,
            broken=broken,
            failed=failed if exit_code is None else "",
            together=worker.orphaned,
            cpu_s=max(0.0, killed.cpu_s - self._before[0]) if killed else None,
            waited_s=max(0.0, killed.waited_s - self._before[1]) if killed else None,
            peak_memory_bytes=killed.peak_memory_bytes if killed else None,
            peak_threads=killed.threads if killed else None,
            pressed=self._pressed(died_s is None),
            worker=worker.present(),
            log_from=min(log_from, self._log_size()),
            log_to=self._log_size(),
        )
