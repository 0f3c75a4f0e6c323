"""Horizontal bars in groups, as SVG: how much was completed, and beside each bar what else there is to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

LEFT, TRACK, RIGHT = 190, 420, 250
BAR, GAP, SPACE, TOP, BOTTOM = 11, 3, 12, 74, 34

# The ground is drawn, too, and changes together with the text: a page's own theme may be another than its reader's.
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 15px; font-weight: 600 }
.ours { font-weight: 600 } .faint { fill: #59636e; font-size: 11px } .ground { fill: #ffffff }
.line { stroke: #d1d9e0 } .track { fill: #f0f2f5 }
.a { fill: #1f6feb } .b { fill: #1a7f8e } .c { fill: #6f58c9 } .d { fill: #b35900 }
.e { fill: #a3386c } .f { fill: #4d6b1f }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .faint { fill: #9198a1 } .ground { fill: #0d1117 } .line { stroke: #3d444d }
.track { fill: #1b212a }
.a { fill: #58a6ff } .b { fill: #39c5cf } .c { fill: #b19cff } .d { fill: #f0a04b }
.e { fill: #f48fb7 } .f { fill: #a5c261 }
}
"""
COLOURS = "abcdef"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        part: From 0 to 1.
        text: What stands behind it.
    """

    part: float
    text: str


def fraction(part: float) -> str:
    """With two digits, where 1.00 is said of nothing less than the whole."""
    return f"{part:.2f}" if part >= 1 else f"{min(part, 0.99):.2f}"


def svg(
    title: str,
    note: str,
    limits: Sequence[str],
    rows: Mapping[str, Mapping[str, Bar]],
    ours: Sequence[str] = (),
) -> str:
    """The chart: a group of bars for each row, in it one for each limit that the row has."""
    out: list[str] = []
    y = TOP
    for name, bars in rows.items():
        shown = [(limit, bars[limit]) for limit in limits if limit in bars]
        height = len(shown) * (BAR + GAP) - GAP
        kind = ' class="ours"' if name in ours else ""
        out.append(f'<text{kind} x="{LEFT - 12}" y="{y + height / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for limit, bar in shown:
            colour = COLOURS[limits.index(limit) % len(COLOURS)]
            width = round(max(0.0, min(1.0, bar.part)) * TRACK, 1)
            out.append(f'<rect x="{LEFT}" y="{y}" width="{TRACK}" height="{BAR}" rx="2" class="track"/>')
            out.append(f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" rx="2" class="{colour}"/>')
            text = escape(f"{fraction(bar.part)} · {bar.text}")
            out.append(f'<text class="faint" x="{LEFT + TRACK + 8}" y="{y + BAR - 1.5}">{text}</text>')
            y += BAR + GAP
        y += SPACE - GAP
    axis = [
        f'<line x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{y - SPACE + 6}" class="line"/>'
        f'<text class="faint" x="{x}" y="{y + 6}" text-anchor="middle">{part:g}</text>'
        for part in (0, 0.25, 0.5, 0.75, 1)
        for x in [LEFT + part * TRACK]
    ]
    whole, high = LEFT + TRACK + RIGHT, y + BOTTOM - SPACE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {high}" width="{whole}" height="{high}" '
            f'role="img"><title>{escape(title)}</title>',
            f"<style>{STYLE}</style>",
            f'<rect width="{whole}" height="{high}" rx="6" class="ground"/>',
            f'<text class="title" x="16" y="24">{escape(title)}</text>',
            f'<text class="faint" x="16" y="42">{escape(note)}</text>',
            *_legend(limits),
            *axis,
            *out,
            "</svg>\n",
        ]
    )


def _legend(limits: Sequence[str]) -> list[str]:
    out, x = [], LEFT
    for place, limit in enumerate(limits):
        out.append(f'<rect x="{x}" y="52" width="10" height="10" rx="2" class="{COLOURS[place % len(COLOURS)]}"/>')
        out.append(f'<text class="faint" x="{x + 15}" y="61">{escape(limit)}</text>')
        x += 35 + 6 * len(limit)
    return out
