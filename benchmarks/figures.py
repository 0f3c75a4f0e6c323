"""What a benchmark has found: figures to print, and what is wrong in kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        peer: The same of the peer.
        hold: What the design asks for, as text; printed, never asserted.
        note: What the line does not say by itself.
    """

    part: str
    what: str
    value: float
    unit: str
    peer: float | None = None
    hold: str = ""
    note: str = ""


@dataclass(slots=True)
class Findings:
    """Figures in the order in which they were found.

    Attributes:
        wrong: What must not be, however slow the machine is.
    """

    figures: list[Figure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(
        self,
        part: str,
        what: str,
        value: float,
        unit: str,
        *,
        peer: float | None = None,
        hold: str = "",
        note: str = "",
    ) -> None:
        self.figures.append(Figure(part, what, value, unit, peer, hold, note))

    def expect(self, right: bool, otherwise: str) -> None:
        """Note something wrong in kind unless it is right."""
        if not right:
            self.wrong.append(otherwise)


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of all of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def table(figures: Sequence[Figure]) -> str:
    rows = [("", "battd", "peer", "battd/peer", "to hold", "")]
    part = ""
    for one in figures:
        if one.part != part:
            part = one.part
            rows.append((part, "", "", "", "", ""))
        ratio = f"{one.value / one.peer:.2g}" if one.peer else ""
        ours, peers = _shown(one.value, one.unit), _shown(one.peer, one.unit)
        rows.append((f"  {one.what}", ours, peers, ratio, one.hold, one.note))
    widths = [max(len(row[place]) for row in rows if place or row[1] or not row[0]) for place in range(5)]
    lines = []
    for what, value, peer, ratio, hold, note in rows:
        cells = (value.rjust(widths[1]), peer.rjust(widths[2]), ratio.rjust(widths[3]), hold.ljust(widths[4]), note)
        lines.append("  ".join((what.ljust(widths[0]), *cells)).rstrip())
    return "\n".join(lines)


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    text = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3g}"
    return f"{text} {unit}".rstrip()
