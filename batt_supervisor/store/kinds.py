"""Write operation of what was learned of each kind of tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence

from batt_supervisor.core.needs import KINDS_MAX, Learned
from batt_supervisor.store.transaction import Transaction


def save(tx: Transaction, learned: Sequence[Learned]) -> None:
    """Store what was learned of these kinds, over what was known of them; those not updated for longest go."""
    rows = [(one.kind, one.attempts, json.dumps(one.memory), json.dumps(one.threads)) for one in learned]
    tx.db.execute(
        "INSERT INTO kinds (kind, attempts, memory_peaks, thread_peaks, updated_at_ms) "
        "SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, ? FROM json_each(?) WHERE true "
        "ON CONFLICT DO UPDATE SET attempts = excluded.attempts, memory_peaks = excluded.memory_peaks, "
        "thread_peaks = excluded.thread_peaks, updated_at_ms = excluded.updated_at_ms",
        (tx.now_ms, json.dumps(rows)),
    )
    tx.db.execute(
        "DELETE FROM kinds WHERE kind IN (SELECT kind FROM kinds ORDER BY updated_at_ms DESC, kind LIMIT -1 OFFSET ?)",
        (KINDS_MAX,),
    )
