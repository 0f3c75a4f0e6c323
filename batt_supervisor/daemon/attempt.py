"""One attempt in hand, and one end that is not on disk yet."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from batt_supervisor.core.model import Claim, Ending, Head, Space, Work
from batt_supervisor.core.retry import Verdict, judge
from batt_supervisor.core.world import Running, Stop
from batt_supervisor.store import moves


@dataclass(slots=True)
class Attempt:
    """One attempt from the decision to start it until its end is on disk.

    Attributes:
        slot_id: None while it was claimed ahead and waits for a slot.
        since_s: When it was decided on, then when its slot came to it; monotonic.
        args: Its arguments as JSON, which come with the claim; None while it is being claimed.
        serial: Of the request to the slot; 0 until it is sent.
        called_s: When its function was called; None until the worker says so.
        stop: The order to end it, once given.
        stop_asked: Somebody asked for its end; the plan makes the order of it.
    """

    head: Head
    work: Work
    slot_id: int | None
    need: Space
    alone: bool
    since_s: float
    args: str | None = None
    serial: int = 0
    called_s: float | None = None
    stop: Stop | None = None
    stop_asked: bool = False

    @property
    def claim(self) -> Claim:
        return Claim(self.head.task_id, self.head.attempt + 1)

    def running(self, boot_timeout_s: float, *, current: bool) -> Running:
        """As the plan sees it; one that is not its slot's current one still waits for its turn."""
        return Running(
            claim=self.claim,
            run_id=self.head.run_id,
            slot_id=self.slot_id if current else None,
            timeout_s=self.work.limits.timeout_s,
            sent_s=self.since_s,
            boot_timeout_s=boot_timeout_s,
            called_s=self.called_s,
            need=self.need,
            alone=self.alone,
            ending=self.stop is not None or self.args is None,
            stop_asked=self.stop_asked,
        )

    def request(self) -> dict[str, Any]:
        """What its worker is told; see `worker.entry`."""
        args: Any = json.loads(self.args or "[]")
        work, claim = self.work, self.claim
        body: dict[str, Any] = {"task": claim.task_id, "attempt": claim.attempt}
        if work.function is None:
            return body | {"op": "run", "command": _filled(work, args), "shell": work.shell}
        soft = {} if work.limits.soft_timeout_s is None else {"soft_timeout_s": work.limits.soft_timeout_s}
        return body | {"op": "call", "function": work.function, "args": args, **soft}


@dataclass(slots=True)
class Settling:
    """An end that the store has not acknowledged yet; kept, and tried again, while the store is unavailable."""

    attempt: Attempt
    ending: Ending
    place: moves.Place | None
    retry_at_s: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What becomes of the task; the task's id is the seed of its backoff."""
        head = self.attempt.head
        return judge(self.ending.outcome, head.tries, self.attempt.work.limits, head.task_id)


def _filled(work: Work, args: Any) -> list[str]:
    """A command's words with `{item}` filled in; quoted where a shell will read it."""
    if not isinstance(args, dict) or "item" not in args:
        return list(work.command)
    item = str(args["item"])
    return [word.replace("{item}", shlex.quote(item) if work.shell else item) for word in work.command]
