"""How long attempts of each kind take, lately, and what may be done at once with those that take next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.board import PACK_MAX

KNOWN_AFTER: Final = 16
"""Attempts of a kind before anything is made of their pace."""

STEADY: Final = 5
"""How many times as long as the limits below a kind's slowest attempt may have taken. A kind in which some take long is
left alone: what was claimed ahead, or sent in a pack, would wait behind one of those."""

SHORT_S: Final = 0.02
"""A kind whose attempts take less is claimed ahead of a free slot: the next one then need not wait for the disk."""

AHEAD_S: Final = 0.01
"""How much work of a short kind is claimed ahead for each slot: what it does while a batch of claims is written."""

AHEAD_MAX: Final = 128
"""Most attempts that are claimed ahead for each slot; they are what a kill of battd loses beside those that run."""

TINY_S: Final = 0.002
"""A kind whose attempts take less is sent in packs of about this much work: handing a single one over costs more than
making it."""

WEIGHT: Final = 0.2
"""How much of a kind's pace its latest attempt makes."""

FADE: Final = 0.98
"""How the memory of a kind's slowest attempt fades with each further one."""

KINDS_MAX: Final = 1000


@dataclass(slots=True)
class _Kind:
    mean_s: float
    worst_s: float
    attempts: int = 1

    def steadily_under(self, limit_s: float) -> bool:
        return self.attempts >= KNOWN_AFTER and self.mean_s < limit_s and self.worst_s < STEADY * limit_s


class Pace:
    """What was learned; forgotten as a whole when there are too many kinds."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def learn(self, kind: str, wall_s: float) -> None:
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= KINDS_MAX:
                self._kinds.clear()
            self._kinds[kind] = _Kind(wall_s, wall_s)
            return
        known.mean_s += WEIGHT * (wall_s - known.mean_s)
        known.worst_s = max(wall_s, known.worst_s * FADE)
        known.attempts += 1

    def ahead(self, slots: int, max_tasks: int = 0) -> dict[str, int]:
        """For each short kind, how many attempts may be claimed before one of so many slots is free for them.

        Args:
            max_tasks: Attempts that a worker serves before the next one has to be waited for; 0 for no limit.
        """
        most = min(AHEAD_MAX, max_tasks or AHEAD_MAX)
        return {
            kind: slots * max(1, min(most, round(AHEAD_S / max(known.mean_s, 1e-6))))
            for kind, known in self._kinds.items()
            if known.steadily_under(SHORT_S)
        }

    def pack(self, kind: str, ready: int, slots: int) -> int:
        """How many of `ready` attempts of a kind one of so many slots is given at once."""
        known = self._kinds.get(kind)
        if known is None or not known.steadily_under(TINY_S):
            return 1
        return max(1, min(PACK_MAX, int(TINY_S / max(known.mean_s, 1e-6)), -(-ready // slots)))
