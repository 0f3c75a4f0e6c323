"""The service as it stands, from the loop's last snapshot."""

from __future__ import annotations

import os

from batt_supervisor import __version__
from batt_supervisor.config import Settings
from batt_supervisor.daemon.loop import Snapshot
from batt_supervisor.pool.nursery import ROOT
from batt_supervisor.wire import HeadroomInfo, ServiceInfo, SlotInfo, run_name, task_name


def describe(settings: Settings, snapshot: Snapshot, started_ms: int, kill_by: str) -> ServiceInfo:
    """Everything but what only the store knows (counts, runs).

    Args:
        kill_by: How process trees are ended, in words.
    """
    return ServiceInfo(
        version=__version__,
        pid=os.getpid(),
        started_at_ms=started_ms,
        draining=snapshot.draining,
        state_dir=str(settings.state_dir),
        socket=str(settings.socket),
        python_path=(*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), ROOT),
        width=settings.slots,
        slots=tuple(
            SlotInfo(
                slot=slot.view.id,
                phase=slot.trouble or ("busy" if slot.view.id in snapshot.tasks else slot.view.phase.value),
                worker_pid=slot.worker_pid,
                served=slot.view.served,
                renewed=slot.renewed,
                cwd=slot.view.room.cwd,
                task=task_name(snapshot.tasks[slot.view.id]) if slot.view.id in snapshot.tasks else None,
                progress=slot.progress if slot.view.id in snapshot.tasks else None,
            )
            for slot in snapshot.slots
        ),
        headroom=HeadroomInfo(
            memory_free_bytes=snapshot.free.space.memory_bytes,
            memory_limit=snapshot.free.memory_limit,
            threads_free=snapshot.free.space.threads,
            threads_limit=snapshot.free.threads_limit,
            memory_promised_bytes=snapshot.promised.memory_bytes,
            threads_promised=snapshot.promised.threads,
            memory_reserve_bytes=settings.reserve_memory,
            threads_reserve=settings.reserve_threads,
        ),
        holds={run_name(run_id): hold.reason for run_id, hold in snapshot.holds.items()},
        store=snapshot.store,
        kill_by=kill_by,
        start_method=settings.start_method,
        counts={},
        outcomes={},
        runs=(),
    )
