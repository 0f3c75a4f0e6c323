"""Write operation that counts the time which battd has itself seen pass: what the age of a run and an event goes by.

The wall clock would not do: one that is set forward by a year would have everything removed. This count goes on with
the monotonic clock. While no battd ran it can only be guessed by the wall clock, so no more than a day is believed.

`marks` say how long the event log was at which count: what has a number in the log has its age by that.
"""

from __future__ import annotations

from typing import Final

from batt_supervisor.store.transaction import Transaction

ABSENCE_MAX_MS: Final = 86_400_000
"""The most that is believed of the time between two battds."""

FINE: Final = 64
"""So many marks are as near to each other as they were made; of those before, one an hour is kept."""

HOUR_MS: Final = 3_600_000


def pass_time(tx: Transaction, passed_ms: int | None, grain_ms: int, longest_ms: int) -> int:
    """Count time that has passed; the count as it stands.

    Args:
        passed_ms: Since the last call, on the monotonic clock; None for the first call of a battd.
        grain_ms: How near marks need to be to each other.
        longest_ms: The greatest age that anything is looked at for; marks that are older than that are of no use.
    """
    lived_ms, at_ms, event_seq = tx.db.execute("SELECT lived_ms, lived_at_ms, event_seq FROM counters").fetchone()
    if passed_ms is None:
        passed_ms = 0 if at_ms is None else min(max(0, tx.now_ms - at_ms), ABSENCE_MAX_MS)
    lived_ms += passed_ms
    tx.db.execute("UPDATE counters SET lived_ms = ?, lived_at_ms = ?", (lived_ms, tx.now_ms))
    last = tx.db.execute("SELECT lived_ms, event_seq FROM marks ORDER BY lived_ms DESC LIMIT 1").fetchone()
    if last is None or (event_seq > last[1] and lived_ms >= last[0] + grain_ms):
        tx.db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (lived_ms, event_seq))
        _thin(tx, lived_ms - FINE * grain_ms, lived_ms - longest_ms)
    return int(lived_ms)


def _thin(tx: Transaction, fine_ms: int, oldest_ms: int) -> None:
    tx.db.execute(
        "DELETE FROM marks WHERE lived_ms < ?1 AND lived_ms NOT IN "
        "(SELECT max(lived_ms) FROM marks WHERE lived_ms < ?1 GROUP BY lived_ms / ?2)",
        (fine_ms, HOUR_MS),
    )
    tx.db.execute(
        "DELETE FROM marks WHERE lived_ms < (SELECT max(lived_ms) FROM marks WHERE lived_ms <= ?)", (oldest_ms,)
    )
