"""What a plan is made from, and what it orders: plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from batt_supervisor.clock import Now
from batt_supervisor.core.admission import Free, Hold, Need
from batt_supervisor.core.headroom import CALM, NOBODY, Others, Pressure
from batt_supervisor.core.levels import Throttle
from batt_supervisor.core.limits import ASK_FROM_S, ASK_S, Quiet, Sample
from batt_supervisor.core.model import NOTHING, Claim, Head, Limits, Outcome, Room, Space, Work
from batt_supervisor.core.retry import runs_alone

WRITING_MAX_S: Final = 660.0
"""How long a result may take to be written. Its worker gives up a minute before (`worker.report.DISK_S`)."""


class Closing(StrEnum):
    """Why a run takes no more starts."""

    CANCEL = "cancel"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class RunView:
    """An open run."""

    id: int
    deadline_at_ms: int | None = None
    closing: Closing | None = None  # already being closed


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt that a slot works on, or will in a moment.

    Attributes:
        slot_id: None for one that was claimed ahead and takes the next slot that comes free.
        sent_s: When it was given to the slot, monotonic.
        called_s: When its function was called, monotonic; None until the worker says so.
        returned_s: When it had returned, and only its result was left to be written to the disk; likewise.
        boot_timeout_s: How long that may take.
        sample: What it used when it was last looked at; None: not yet.
        quiet: Since when it has shown no sign of life, where its run sets a limit to that.
        asked: Its stacks have been asked for.
        python: It is a Python function, so its worker has stacks to tell.
        apart: It is a suspect, in a worker of its own nursery.
        evicted: How often its task was stopped before to save the rest.
        ending: An end is under way: it is being killed, or its result is being stored.
        stop_asked: Somebody asked for its end.
    """

    claim: Claim
    run_id: int
    slot_id: int | None
    limits: Limits
    sent_s: float
    boot_timeout_s: float
    called_s: float | None = None
    returned_s: float | None = None
    sample: Sample | None = None
    quiet: Quiet | None = None
    asked: bool = False
    python: bool = True
    apart: bool = False
    evicted: int = 0
    need: Space = NOTHING
    alone: bool = False
    ending: bool = False
    stop_asked: bool = False

    @property
    def deadline_s(self) -> float:
        """When the supervisor ends it, on the monotonic clock."""
        if self.called_s is None:
            return self.sent_s + self.boot_timeout_s
        if self.returned_s is not None:
            return self.returned_s + WRITING_MAX_S
        return self.called_s + self.limits.timeout_s

    @property
    def stall_s(self) -> float:
        """When it is called stalled unless it shows a sign of life before; infinity where there is no such limit."""
        if self.quiet is None or self.limits.stall_timeout_s is None or self.returned_s is not None:
            return float("inf")
        return self.quiet.since_s + self.limits.stall_timeout_s

    @property
    def ask_s(self) -> float:
        """When its stacks are to be asked for; infinity for never, or not again."""
        if self.asked or not self.python or self.called_s is None or self.returned_s is not None:
            return float("inf")
        asks = [self.deadline_s] if self.limits.timeout_s >= ASK_FROM_S else []
        asks += [self.stall_s] if (self.limits.stall_timeout_s or 0.0) >= ASK_FROM_S else []
        return min(asks, default=float("inf")) - ASK_S


class SlotPhase(StrEnum):
    """What a slot is doing."""

    BOOTING = "booting"  # its worker is not there yet
    IDLE = "idle"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot as the plan sees it.

    Attributes:
        served: Attempts its present worker has had.
        room_since_s: When it entered its room, monotonic.
        spent: Why its worker should serve no further attempt; empty while it may.
        age_s: Seconds since its present worker was started.
    """

    id: int
    phase: SlotPhase
    room: Room
    served: int = 0
    room_since_s: float = 0.0
    spent: str = ""
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that decisions depend on.

    Attributes:
        width: How many attempts may run at once.
        max_tasks: Attempts a worker serves before it is renewed; 0 for no limit.
        reserve: What stays free whatever waits.
        need: What an attempt is expected to take.
        max_age_s: Seconds after which a worker is renewed; 0 for no limit.
    """

    width: int
    max_tasks: int
    reserve: Space
    need: Space
    max_age_s: float = 0.0


NO_WORK: Final = Hold("service", 1, "battd takes no work")


class Line(NamedTuple):
    """A line of queued tasks of one run: those of one stage that are alike in what they need.

    A held line blocks no other, not of its own run either.

    Attributes:
        resource: How often its tasks have failed for want of memory or threads: their need has grown with each.
        alone: They must run alone.
    """

    run_id: int
    stage: int
    resource: int = 0
    alone: bool = False

    @classmethod
    def of(cls, head: Head) -> Line:
        tries = head.tries
        return cls(head.run_id, head.stage, tries.resource, runs_alone(tries))


@dataclass(frozen=True, slots=True)
class World:
    """Everything one plan is made from.

    Attributes:
        accepting: Whether anything may start.
        closed: Why nothing may, where `accepting` is false.
        heads: For each open run its first queued tasks, in order.
        ahead: For kinds of tasks so short that a slot would wait for the disk between two of them: how many attempts
            may be claimed before a slot is free for them. Absent: none.
        bad_rooms: Rooms in which workers have just failed to start, and why; nothing is moved there for a while.
        trouble: Why slots are missing, if any are.
        last_start_s: When each run last had a start, monotonic; absent means never.
        needs: What attempts of each (run, stage) are expected to take; absent: the configured guess.
        others: This user's other supervisors on this host.
        throttle: How many may run at once; None: as many as there are slots.
        held_since: Since when each queue of a run has been held for want of memory or threads, monotonic.
        relieved_s: When something was last given up for want of memory or threads, monotonic.
        ended_s: When an attempt of ours last ended, monotonic.
    """

    now: Now
    accepting: bool
    runs: Sequence[RunView]
    heads: Mapping[int, Sequence[Head]]
    works: Mapping[tuple[int, int], Work]
    running: Sequence[Running]
    slots: Sequence[SlotView]
    free: Free
    ahead: Mapping[str, int] = field(default_factory=dict)
    bad_rooms: Mapping[Room, str] = field(default_factory=dict)
    trouble: str = ""
    closed: Hold = NO_WORK
    last_start_s: Mapping[int, float] = field(default_factory=dict)
    needs: Mapping[tuple[int, int], Need] = field(default_factory=dict)
    others: Others = NOBODY
    pressure: Pressure = CALM
    throttle: Throttle | None = None
    held_since: Mapping[Line, float] = field(default_factory=dict)
    relieved_s: float = float("-inf")
    ended_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class CloseRun:
    """Cancel what of a run has not started."""

    run_id: int
    why: Closing


@dataclass(frozen=True, slots=True)
class Stop:
    """End an attempt now, with its whole process tree; it is settled with this outcome."""

    claim: Claim
    slot_id: int | None
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class AskStacks:
    """Have an attempt's worker write the stacks of its threads into its log: its time is nearly up."""

    claim: Claim
    slot_id: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Give an idle slot another worker, in this room.

    Attributes:
        relief: So that it gives back what it has gathered.
    """

    slot_id: int
    room: Room
    reason: str
    relief: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """Claim a task for a slot and start it there; without a slot, start it in the next one that comes free."""

    head: Head
    slot_id: int | None
    need: Space
    alone: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A run's next task cannot start now; this is what `battctl why` says.

    Attributes:
        line: Of which line it is the next; None: nothing of the run can start.
    """

    run_id: int
    hold: Hold
    line: Line | None = None


Command = CloseRun | Stop | AskStacks | Renew | Begin | Held
