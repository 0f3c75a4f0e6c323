"""What battd does before anything else: ends what an earlier one left running, and writes it off."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Final

import structlog

from batt_supervisor.core.model import LiveAttempt
from batt_supervisor.core.recovery import recover
from batt_supervisor.daemon.faults import Point, no_fault
from batt_supervisor.daemon.statedir import StateDir
from batt_supervisor.errors import StoreDamaged
from batt_supervisor.pool import kill, proc
from batt_supervisor.pool.group import Groups
from batt_supervisor.pool.nursery import TOKEN
from batt_supervisor.store import values
from batt_supervisor.store.protocol import Store

log = structlog.get_logger("recovery")


LEAVE_S: Final = 3.0
"""How long the nurseries of a battd that died may take to end what is below them, which they do when it dies."""


def end_left_processes(store: Store, state: StateDir, groups: Groups) -> int:
    """See that nothing of an earlier battd on this state directory runs any more; how many processes had to be ended.

    Its nurseries do that as a rule, and know best what belongs to them, so they are waited for. What is left then was
    below a nursery that died as well: it is found by its control group, by pid and start time of the attempts' workers,
    and by a variable in its environment. Without control groups, a process that had left its worker and emptied its
    environment is not found.
    """
    until_s = time.monotonic() + LEAVE_S
    while _holders(state) and time.monotonic() < until_s:
        time.sleep(0.01)
    ended = groups.clear()
    for attempt, _ in _live(store):
        if attempt.worker is not None and kill.end_if_same(attempt.worker.pid, attempt.worker.started):
            ended += 1
    while left := _holders(state):
        for pid in left:
            kill.end_tree(pid)
        ended += len(left)
        if time.monotonic() > until_s + LEAVE_S:
            log.error("processes of an earlier battd cannot be ended", pids=left)
            break
        time.sleep(0.01)
    if ended:
        log.warning("ended processes of an earlier battd", processes=ended)
    return ended


def _live(store: Store) -> list[tuple[LiveAttempt, int]]:
    """What the store holds as running; nothing where it is damaged, for there are other ways to find processes."""
    with closing(store.reader()) as reader:
        try:
            return reader.live()
        except StoreDamaged:
            return []


def _holders(state: StateDir) -> list[int]:
    """Processes with this state directory's variable in their environment, this one and the dead left out."""
    found = []
    for pid in proc.holding(TOKEN, state.token):
        stat = proc.stat(pid)
        if pid != os.getpid() and stat is not None and stat.state != "Z":
            found.append(pid)
    return found


def ends_of_left(store: Store) -> list[values.Settlement]:
    """The ends of all attempts that an earlier battd held, now that none of them is alive.

    Raises:
        StoreUnavailable: It cannot be read.
    """
    with closing(store.reader()) as reader:
        live = reader.live()
        runs = {row.id: reader.stages(row) for row in reader.open_runs()}
    ends = []
    for attempt, stage in live:
        found = recover(attempt, runs[attempt.run_id][stage].work.limits)
        ends.append(values.Settlement(attempt.claim, found.ending, found.verdict))
    return ends


def write_off(store: Store, ends: Sequence[values.Settlement], limit_s: float, point: Point = no_fault) -> None:
    """Settle them. The writer's thread must be running.

    Raises:
        TimeoutError: It has not answered for `limit_s`; nothing else watches it yet.
        StoreUnavailable: The store cannot be written; the loop does it when it can (`Loop.begin_with`).
    """
    if ends:
        point("recover")
        store.writer.submit(lambda tx: tx.settle(ends)).result(limit_s)
        log.warning("attempts of an earlier battd written off", attempts=len(ends))
