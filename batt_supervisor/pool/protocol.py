"""What the daemon's loop asks of whatever runs attempts: `pool.crew`, or `testing.FakePool`."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import Room, WorkerId
from batt_supervisor.core.world import SlotView
from batt_supervisor.pool.group import QUIET, Events


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt, as a slot is given it.

    Attributes:
        serial: A number no other request of this battd has; reports carry it back.
        body: The request `worker.entry` understands.
        memory_limit: Bytes that its process tree may have, for the kernel to enforce where it can; None for no limit.
        thread_limit: Threads and processes, likewise.
        output_limit: Bytes of its output that are kept when it is ended; None for all.
    """

    serial: int
    body: dict[str, Any]
    memory_limit: int | None = None
    thread_limit: int | None = None
    output_limit: int | None = None

    @property
    def attempt(self) -> str:
        """What the files are named after that its worker writes for it."""
        return f"{self.body['task']}-{self.body['attempt']}"


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of an attempt.

    Attributes:
        report: What the worker said; None when it ended without a word.
        exit_code: Of the worker, as os.waitstatus_to_exitcode gives it, when it died.
        called_s: When its function was called, on the monotonic clock; None: it never was.
        ended_s: When its process was seen to be dead, monotonic; None while that lives.
        begun: Its worker had taken it up; importing its function's module is the first part of it. False only without a
            report: nothing of it has happened.
        requeue: It was sent in a pack that ended before its turn, or to a slot that took nothing: it may be sent again.
        broken: Why the slot, not the task, ended it; empty otherwise.
        failed: Why its worker could not go on after what the task had done to it; empty otherwise.
        together: Its worker's nursery died, and with it whatever else that had forked.
        cpu_s: CPU seconds of the attempt's whole tree, when it was ended from outside, as are the next three.
        waited_s: Seconds for which its busiest thread was ready to run and had no CPU.
        peak_memory_bytes: Sum of the largest resident sets of its processes.
        peak_threads: Threads and processes that it had then.
        pressed: What the kernel did to its control group meanwhile.
        worker: The worker that had it; None where the slot had none.
        log_from: First byte of the worker's log that is this attempt's; it ends before `log_to`.
    """

    slot_id: int
    serial: int
    report: dict[str, Any] | None
    exit_code: int | None = None
    called_s: float | None = None
    ended_s: float | None = None
    begun: bool = True
    requeue: bool = False
    broken: str = ""
    failed: str = ""
    together: bool = False
    cpu_s: float | None = None
    waited_s: float | None = None
    peak_memory_bytes: int | None = None
    peak_threads: int | None = None
    pressed: Events = QUIET
    worker: WorkerId | None = None
    log_from: int = 0
    log_to: int = 0


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot for people: what `battctl status` shows beside the view that the plan works on."""

    view: SlotView
    worker_pid: int | None
    renewed: int
    trouble: str
    progress: tuple[float, float] | None = None  # (done, total), where its task has said so


class Pool(Protocol):
    """A set of slots. All methods are called by the loop's thread only, and none of them waits."""

    def descriptors(self) -> Sequence[int]:
        """File descriptors that become readable when `poll` has something to do."""

    def poll(self, now_s: float, ready: Container[int]) -> list[Exit]:
        """Attempts that have ended since the last call; also keeps the slots in repair.

        `ready` are those of `descriptors` that were found readable.
        """

    def slots(self) -> Sequence[SlotView]:
        """Every slot that is there, ready or not."""

    def slot(self, slot_id: int) -> SlotView | None:
        """One of them."""

    def moved(self) -> bool:
        """Whether a slot has become idle, or has come or gone, since this was last asked."""

    def status(self) -> Sequence[SlotStatus]:
        """The same for people."""

    def bad_rooms(self, now_s: float) -> Mapping[Room, str]:
        """Rooms in which workers have just failed to start, and why."""

    def refusals(self) -> int:
        """How often the kernel has refused a thread or a process that a slot needed."""

    def trouble(self) -> str:
        """Why a slot cannot be had now; empty when none is missing."""

    def worker(self, slot_id: int) -> WorkerId | None:
        """The worker in a slot now."""

    def send(self, slot_id: int, requests: Sequence[Request]) -> None:
        """Give an idle slot attempts, to be made one after another; each gets its own Exit, in this order.

        At most `worker.board.PACK_MAX` of them. That the slot cannot take them comes back as Exits, too.
        """

    def called(self, slot_id: int, serial: int) -> float | None:
        """When the attempt's function was called, on the monotonic clock; None: not yet."""

    def returned(self, slot_id: int, serial: int) -> float | None:
        """When nothing was left of the attempt but to write its result to the disk, monotonic; None: not yet."""

    def sample(self, slot_id: int, serial: int, memory_limit: int | None) -> Sample | None:
        """What the slot's current attempt uses now; None: it is another one by now, or has ended.

        Memory is exact above `memory_limit`, and too much below it; see `usage.measure`.
        """

    def ask_stacks(self, slot_id: int, serial: int) -> None:
        """Have the stacks of all threads of the attempt's worker written into its log."""

    def take_back(self, slot_id: int) -> None:
        """Take from a slot what it has not begun of a pack; each of these gets an Exit with `requeue`."""

    def end(self, slot_id: int, serial: int) -> None:
        """Kill the attempt's process tree; its Exit follows."""

    def distrust(self) -> None:
        """A run has come: whatever workers have loaded is compared with the disk before it is used again."""

    def renew(self, slot_id: int, room: Room) -> None:
        """Give an idle slot a new worker, in `room`."""

    def resize(self, width: int, now_s: float) -> None:
        """Keep as many slots as `width` attempts need."""

    def close(self) -> None:
        """End everything. The pool cannot be used afterwards."""
