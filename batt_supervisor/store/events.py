"""Reads the event log: a page of it, and one task's story. `journal` says how it is written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from batt_supervisor.store.journal import CREATED
from batt_supervisor.store.rows import EventRow, EventsPage, Span

ROWS: Final = 256
"""Rows of the log that are looked through for one page at most; a row may hold thousands of events."""

LOOKED_MAX: Final = 20_000
"""Events that are looked through for one page at most, give or take a row: some 20 ms."""

_FROM: Final = (
    "SELECT first, last, at_ms, body FROM events WHERE first >= "
    "coalesce((SELECT max(first) FROM events WHERE first <= ?), 0) ORDER BY first LIMIT ?"
)


def page(db: sqlite3.Connection, after: int, limit: int, run_id: int | None) -> EventsPage:
    """Events numbered above `after`, of one run where it is named: up to `limit`, or what a short look has found."""
    found: list[EventRow] = []
    next_after = after
    looked = seen = 0
    newest = span(db).last
    rows = db.execute(_FROM, (after + 1, ROWS))
    for first, last, at_ms, body in rows:
        for event in _of_row(first, at_ms, body, after + 1, run_id):
            found.append(event)
            if len(found) == limit:
                rows.close()
                return EventsPage(tuple(found), event.seq, more=event.seq < newest)
        next_after, looked, seen = max(next_after, last), looked + last - first + 1, seen + 1
        if looked > LOOKED_MAX:
            break
    else:
        if seen < ROWS:
            next_after = max(next_after, newest)  # also where retention has removed what was behind `after`
    rows.close()
    return EventsPage(tuple(found), next_after, more=next_after < newest)


def span(db: sqlite3.Connection) -> Span:
    """What is there of the log."""
    first = db.execute("SELECT min(first) FROM events").fetchone()[0]
    return Span(first or 0, db.execute("SELECT event_seq FROM counters").fetchone()[0])


def story(db: sqlite3.Connection, task_id: int) -> list[EventRow]:
    """A task's events, oldest first, as far back as the log goes."""
    row = db.execute("SELECT event_seq FROM tasks WHERE id = ?", (task_id,)).fetchone()
    seq: int | None = row[0] if row else None
    told: list[EventRow] = []
    while seq is not None:
        found = db.execute(
            "SELECT first, last, at_ms, body FROM events WHERE first <= ? ORDER BY first DESC LIMIT 1", (seq,)
        ).fetchone()
        if found is None or found[1] < seq:
            break  # retention has removed it, and all before it
        event, seq = _one(found[0], found[2], json.loads(found[3]), seq)
        told.append(event)
    return told[::-1]


def spans(first: int, body: str) -> Iterator[tuple[int, int, int | None, str | None]]:
    """A row's events as runs of consecutive ones: number and task of the first, how many, and the state they end in."""
    seq = first
    for entry in json.loads(body):
        if entry[0] == CREATED:
            task_id = entry[2]
            for state, count in entry[3]:
                yield seq, count, task_id, state
                seq, task_id = seq + count, task_id + count
        else:
            yield seq, 1, entry[0], entry[5]
            seq += 1


def _of_row(first: int, at_ms: int, body: str, wanted: int, only: int | None) -> Iterator[EventRow]:
    """A row's events from the one numbered `wanted` on, of `only` one run where it is named."""
    seq = first
    for entry in json.loads(body):
        if entry[0] == CREATED:
            _, run_id, task_id, runs = entry
            for state, count in runs:
                for place in range(max(0, wanted - seq), count if only in (None, run_id) else 0):
                    yield _made(seq + place, at_ms, task_id + place, run_id, state)
                seq, task_id = seq + count, task_id + count
        else:
            if seq >= wanted and (only is None or entry[1] == only):
                yield EventRow(seq, at_ms, entry[0], entry[1], *entry[2:8])
            seq += 1


def _one(first: int, at_ms: int, entries: list[Any], seq: int) -> tuple[EventRow, int | None]:
    """The event of that number, and the number of its task's event before."""
    for entry in entries:
        if entry[0] == CREATED:
            _, run_id, task_id, runs = entry
            for state, count in runs:
                if seq < first + count:
                    return _made(seq, at_ms, task_id + seq - first, run_id, state), None
                first, task_id = first + count, task_id + count
        else:
            if seq == first:
                return EventRow(seq, at_ms, entry[0], entry[1], *entry[2:8]), entry[8]
            first += 1
    raise AssertionError(f"event {seq} is not in its row")


def _made(seq: int, at_ms: int, task_id: int, run_id: int, state: str) -> EventRow:
    return EventRow(seq, at_ms, task_id, run_id, None, "created", None, state, None, None)
