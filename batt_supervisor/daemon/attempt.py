"""One attempt in hand, and one end that is not on disk yet."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field, replace
from typing import Any

from batt_supervisor.core.limits import Quiet, Sample, listen
from batt_supervisor.core.model import Claim, Ending, Head, Space, Work
from batt_supervisor.core.retry import Verdict, judge
from batt_supervisor.core.world import Running, Stop
from batt_supervisor.jsontext import loads
from batt_supervisor.pool.protocol import Request
from batt_supervisor.store import values


@dataclass(slots=True)
class Attempt:
    """One attempt from the decision to start it until its end is on disk.

    Attributes:
        slot_id: None while it was claimed ahead and waits for a slot.
        since_s: When it was decided on, then when its slot came to it; monotonic.
        args: Its arguments as JSON, which come with the claim; None while it is being claimed.
        serial: Of the request to the slot; 0 until it is sent.
        called_s: When its function was called; None until the worker says so.
        returned_s: When that was over, and nothing was left but to write its result to the disk; likewise.
        sample: What it used when it was last looked at.
        sampled_s: When that was, or when it was called.
        quiet: Since when it has shown no sign of life, where its run sets a limit to that.
        peak: Most memory in bytes, and most threads and processes, that any sample saw.
        asked: Its stacks have been asked for.
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
    returned_s: float | None = None
    sample: Sample | None = None
    sampled_s: float = 0.0
    quiet: Quiet | None = None
    peak: tuple[int, int] = (0, 0)
    asked: bool = False
    stop: Stop | None = None
    stop_asked: bool = False
    claim: Claim = field(init=False)
    _waiting: tuple[tuple[object, ...], Running] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.claim = Claim(self.head.task_id, self.head.attempt + 1)

    def running(self, boot_timeout_s: float, *, current: bool) -> Running:
        """As the plan sees it; one that is not its slot's current one still waits for its turn."""
        if current:
            return self._running(boot_timeout_s, current=True)
        # Most of those in hand are short ones that were claimed ahead, and every plan looks at all of them: while they
        # wait nothing else of them changes.
        state = (self.head, self.stop is not None or self.args is None, self.stop_asked, self.since_s, boot_timeout_s)
        if self._waiting is None or self._waiting[0] != state:
            self._waiting = state, self._running(boot_timeout_s, current=False)
        return self._waiting[1]

    def _running(self, boot_timeout_s: float, *, current: bool) -> Running:
        return Running(
            claim=self.claim,
            run_id=self.head.run_id,
            slot_id=self.slot_id if current else None,
            limits=self.work.limits,
            sent_s=self.since_s,
            boot_timeout_s=boot_timeout_s,
            called_s=self.called_s,
            returned_s=self.returned_s,
            sample=self.sample,
            quiet=self.quiet,
            asked=self.asked,
            python=self.work.function is not None,
            apart=self.head.tries.suspect,
            evicted=self.head.tries.evicted,
            need=self.need,
            alone=self.alone,
            ending=self.stop is not None or self.args is None,
            stop_asked=self.stop_asked,
        )

    def packs_with(self, first: Attempt) -> bool:
        """Whether it may be sent in one pack with another: they share a control group's limits then, and its events."""
        work, other = self.work, first.work
        alike = (work.kind, work.limits, work.allow_children) == (other.kind, other.limits, other.allow_children)
        return self is first or (alike and work.limits.memory_limit_bytes is None)

    def note_call(self, called_s: float) -> None:
        """Its function was called then."""
        self.called_s = self.sampled_s = called_s
        if self.work.limits.stall_timeout_s is not None:
            self.quiet = Quiet(called_s)

    def note(self, sample: Sample, now_s: float) -> None:
        """It was looked at."""
        if self.quiet is not None and self.work.limits.stall_timeout_s is not None:
            if self.sample is None:  # heartbeats are counted over all of a worker's attempts
                self.quiet = replace(self.quiet, beats=sample.beats)
            self.quiet = listen(self.quiet, sample, self.work.limits.stall_timeout_s, now_s)
        self.sample, self.sampled_s = sample, now_s
        self.peak = max(self.peak[0], sample.memory_bytes), max(self.peak[1], sample.threads)

    def request(self) -> Request:
        """What its slot is given; `worker.entry` understands the body."""
        args: Any = loads(self.args or "[]")
        work, claim = self.work, self.claim
        body: dict[str, Any] = {"task": claim.task_id, "attempt": claim.attempt}
        if work.allow_children:
            body["allow_children"] = True
        if work.function is None:
            body |= {"op": "run", "command": _filled(work, args), "shell": work.shell}
        else:
            body |= {"op": "call", "function": work.function, "args": args}
            if work.limits.soft_timeout_s is not None:
                body["soft_timeout_s"] = work.limits.soft_timeout_s
            if work.seed is not None:
                body["seed"] = seed_of(work.seed, self.head.index)
        limits = work.limits
        return Request(self.serial, body, limits.memory_limit_bytes, limits.thread_limit, limits.output_limit_bytes)


@dataclass(slots=True)
class Settling:
    """An end that the store has not acknowledged yet; kept, and tried again, while the store is unavailable.

    Attributes:
        spaced: Lost on the side of the worker or its disk, where the next attempt may be lost at once as well.
    """

    attempt: Attempt
    ending: Ending
    place: values.Place | None
    spaced: bool = False

    @property
    def verdict(self) -> Verdict:
        """What becomes of the task; the task's id is the seed of its backoff."""
        head = self.attempt.head
        ending = self.ending
        limits = self.attempt.work.limits
        return judge(ending.outcome, head.tries, limits, head.task_id, together=ending.together, spaced=self.spaced)


def seed_of(seed: int, index: int) -> int:
    """The seed of one task's random generators: 64 bits made of the run's seed and the task's place in the run."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest(), "little")


def _filled(work: Work, args: Any) -> list[str]:
    """A command's words with `{item}` filled in; quoted where a shell will read it."""
    if not isinstance(args, dict) or "item" not in args:
        return list(work.command)
    item = str(args["item"])
    return [word.replace("{item}", shlex.quote(item) if work.shell else item) for word in work.command]
