"""What a plan is made from, and what it orders: plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from batt_supervisor.clock import Now
from batt_supervisor.core.admission import Free, Hold
from batt_supervisor.core.model import NOTHING, Claim, Head, Outcome, Room, Space, Work


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
        ending: An end is under way: it is being killed, or its result is being stored.
        stop_asked: Somebody asked for its end.
    """

    claim: Claim
    run_id: int
    slot_id: int | None
    timeout_s: float
    sent_s: float
    boot_timeout_s: float
    called_s: float | None = None
    need: Space = NOTHING
    alone: bool = False
    ending: bool = False
    stop_asked: bool = False

    @property
    def deadline_s(self) -> float:
        """When the supervisor ends it, on the monotonic clock."""
        if self.called_s is None:
            return self.sent_s + self.boot_timeout_s
        return self.called_s + self.timeout_s


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
    """

    id: int
    phase: SlotPhase
    room: Room
    served: int = 0
    room_since_s: float = 0.0
    spent: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that decisions depend on.

    Attributes:
        width: How many attempts may run at once.
        max_tasks: Attempts a worker serves before it is renewed; 0 for no limit.
        reserve: What stays free whatever waits.
        need: What an attempt is expected to take.
    """

    width: int
    max_tasks: int
    reserve: Space
    need: Space


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


Command = CloseRun | Stop | Renew | Begin | Held
