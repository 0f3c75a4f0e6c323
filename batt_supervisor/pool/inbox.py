"""What other threads tell the loop about its slots: pebble's, and the builder's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batt_supervisor.pool.process import Process
    from batt_supervisor.pool.slot import Slot


@dataclass(frozen=True, slots=True)
class Opened:
    """The pool has all its threads."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Unbuilt:
    """The builder was refused a thread, a process or a descriptor."""

    slot: Slot
    error: str


@dataclass(frozen=True, slots=True)
class Launched:
    """The pool started a worker."""

    slot: Slot
    process: Process


@dataclass(frozen=True, slots=True)
class Answered:
    """The pool resolved a request: it is done, or something went wrong."""

    slot: Slot
    request: int
    error: BaseException | None


Event = Opened | Unbuilt | Launched | Answered

Inbox = Callable[[Event], None]
"""Takes an event in any thread."""
