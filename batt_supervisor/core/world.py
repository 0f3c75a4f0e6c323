"""What a plan is made from, and what it orders: plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from batt_supervisor.clock import Now
from batt_supervisor.core.admission import Free, Hold
from batt_supervisor.core.limits import ASK_FROM_S, ASK_S, Quiet, Sample
from batt_supervisor.core.model import NOTHING, Claim, Head, Limits, Outcome, Room, Space, Work


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
        boot_timeout_s: How long that may take.
        sample: What it used when it was last looked at; None: not yet.
        quiet: Since when it has shown no sign of life, where its run sets a limit to that.
        asked: Its stacks have been asked for.
        python: It is a Python function, so its worker has stacks to tell.
        apart: It is a suspect, in a worker of its own nursery.
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
    sample: Sample | None = None
    quiet: Quiet | None = None
    asked: bool = False
    python: bool = True
    apart: bool = False
    need: Space = NOTHING
    alone: bool = False
    ending: bool = False
    stop_asked: bool = False

    @property
    def deadline_s(self) -> float:
        """When the supervisor ends it, on the monotonic clock."""
        if self.called_s is None:
            return self.sent_s + self.boot_timeout_s
        return self.called_s + self.limits.timeout_s

    @property
    def stall_s(self) -> float:
        """When it is called stalled unless it shows a sign of life before; infinity where there is no such limit."""
        if self.quiet is None or self.limits.stall_timeout_s is None:
            return float("inf")
        return self.quiet.since_s + self.limits.stall_timeout_s

    @property
    def ask_s(self) -> float:
        """When its stacks are to be asked for; infinity for never, or not again."""
        if self.asked or not self.python or self.called_s is None:
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
    closed: str = ""
    last_start_s: Mapping[int, float] = field(default_factory=dict)


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
    """Give an idle slot another worker, in this room."""

    slot_id: int
    room: Room
    reason: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Claim a task for a slot and start it there; without a slot, start it in the next one that comes free."""

    head: Head
    slot_id: int | None
    need: Space
    alone: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A run's next task cannot start now; this is what `battctl why` says."""

    run_id: int
    hold: Hold


Command = CloseRun | Stop | AskStacks | Renew | Begin | Held
