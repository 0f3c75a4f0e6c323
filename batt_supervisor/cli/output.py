"""Printing: aligned tables for people, JSON for programs. Nothing is cut off where no terminal is written to."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

NONE = "-"

WIDEST = 60
"""A column lines up to here; what is longer stands out, and is not cut."""


ROOM = 40
"""What the last column of a table gets on a terminal, if other columns can be spared for it."""


def say(text: str = "") -> None:
    """A line on standard output; what its encoding cannot say is escaped."""
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        print(text.encode(encoding, "backslashreplace").decode(encoding))


def note(text: str) -> None:
    """A line for people beside the output, on standard error."""
    try:
        print(text, file=sys.stderr)
    except UnicodeEncodeError:
        print(text.encode("ascii", "backslashreplace").decode(), file=sys.stderr)


def compact(value: Any) -> str:
    """One line of JSON, in ASCII, so that every reader and every terminal takes it."""
    return json.dumps(value, separators=(",", ":"))


def shown(value: Any) -> str:
    """A value of JSON for people's eyes, on one line."""
    return json.dumps(value, ensure_ascii=False)


def number_of(count: int, thing: str) -> str:
    """`1 task`, `12 tasks`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def document(value: BaseModel | Mapping[str, Any] | Sequence[Any]) -> None:
    """A JSON document: indented for eyes, one line for programs."""
    plain = plain_json(value)
    say(json.dumps(plain, indent=2) if sys.stdout.isatty() else json.dumps(plain))


def plain_json(value: Any) -> Any:
    """A shape of the API, or a list of them, as plain JSON; other values as they are."""
    if isinstance(value, list):
        return [plain_json(one) for one in value]
    # Not pydantic's own JSON: it refuses lone surrogates, which a task's value may hold.
    return value.model_dump() if hasattr(value, "model_dump") else value


def cell(value: object) -> str:
    """A value as one line of printable text."""
    if value is None or value == "":
        return NONE
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\\n" if c == "\n" else " " if c == "\t" else "?" for c in text)


class Table:
    """Columns that line up, printed row by row; the last column takes what is left of the line.

    On a terminal a row is one line, cut with an ellipsis at its edge; where the last column, which says most, would get
    less than `ROOM` characters, columns of `spare` are left out. Elsewhere nothing is cut or left out.
    """

    def __init__(self, *heads: str, right: Iterable[str] = (), spare: Iterable[str] = ()) -> None:
        self._heads = heads
        self._spare = list(spare)
        self._kept = list(range(len(heads)))
        self._right = {place for place, head in enumerate(heads) if head in set(right)}
        self._widths: list[int] = []
        self._edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def print(self, rows: Iterable[Sequence[object]]) -> None:
        """Some rows; the first ones decide how wide the columns are."""
        texts = [[cell(value) for value in row] for row in rows]
        if not self._widths:
            if not texts:
                return
            columns = zip(self._heads, *texts, strict=True)
            self._widths = [min(max(len(text) for text in column), WIDEST) for column in columns]
            self._make_room()
            self._line(self._heads)
        for row in texts:
            self._line(row)

    def _make_room(self) -> None:
        while self._edge is not None and self._spare:
            before = sum(self._widths[place] + 2 for place in self._kept[:-1])
            if self._edge - before >= ROOM:
                return
            self._kept.remove(self._heads.index(self._spare.pop(0)))

    def _line(self, texts: Sequence[str]) -> None:
        padded = [
            texts[place].rjust(self._widths[place]) if place in self._right else texts[place].ljust(self._widths[place])
            for place in self._kept
        ]
        line = "  ".join(padded).rstrip()
        if self._edge is not None and len(line) > self._edge:
            line = line[: max(self._edge - 1, 1)] + "…"
        say(line)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> None:
    Table(*heads, right=right).print(list(rows))


def counts(found: Mapping[Any, int]) -> str:
    """`3100 succeeded, 100 failed`: what is not nought."""
    return ", ".join(f"{number} {name}" for name, number in found.items() if number) or "none"


def moment(at_ms: int | None, *, ms: bool = False) -> str:
    """A wall time in the reader's own zone."""
    if at_ms is None:
        return NONE
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
    return f"{text}.{at_ms % 1000:03}" if ms else text
