"""What battd does before anything else: ends what an earlier one left running, and writes it off."""

from __future__ import annotations

import os

import structlog

from batt_supervisor.core.recovery import recover
from batt_supervisor.daemon.statedir import StateDir
from batt_supervisor.pool import kill, launch, proc
from batt_supervisor.store import Store, moves

log = structlog.get_logger("recovery")


def end_left_processes(store: Store, state: StateDir) -> int:
    """Kill the process trees of workers of an earlier battd on this state directory; how many.

    Workers are known by the pid and start time in their attempts, and what they started by a variable in its
    environment. A process that left its worker and emptied its environment is not found.
    """
    ended = 0
    reader = store.reader()
    for attempt, _ in reader.live():
        if attempt.worker is not None and kill.end_if_same(attempt.worker.pid, attempt.worker.started):
            ended += 1
    reader.close()
    for pid in proc.holding(launch.TOKEN, state.token):
        if pid != os.getpid():
            kill.end_tree(pid)
            ended += 1
    if ended:
        log.warning("ended processes of an earlier battd", processes=ended)
    return ended


def write_off(store: Store, limit_s: float) -> int:
    """Settle every attempt that an earlier battd held, now that none of them is alive; how many.

    The writer's thread must be running.

    Raises:
        TimeoutError: It has not answered for `limit_s`; nothing else watches it yet.
    """
    reader = store.reader()
    live = reader.live()
    runs = {row.id: reader.stages(row) for row in reader.open_runs()}
    reader.close()
    ends = []
    for attempt, stage in live:
        found = recover(attempt, runs[attempt.run_id][stage].work.limits)
        ends.append(moves.Settlement(attempt.claim, found.ending, found.verdict))
    if ends:
        store.writer.submit(lambda tx: moves.settle(tx, ends)).result(limit_s)
    if live:
        log.warning("attempts of an earlier battd written off", attempts=len(live))
    return len(live)


def drop_orphaned_files(store: Store, state: StateDir) -> int:
    """Remove result files that no row knows: of attempts whose end was never written; how many."""
    reader = store.reader()
    known = reader.result_files()
    reader.close()
    orphans = [entry for entry in state.results.iterdir() if entry.name not in known]
    for orphan in orphans:
        orphan.unlink(missing_ok=True)
    return len(orphans)
