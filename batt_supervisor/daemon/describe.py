"""The service as it stands, from the loop's last snapshot."""

from __future__ import annotations

import os
from dataclasses import asdict

from batt_supervisor import __version__
from batt_supervisor.api.show import ORDINARY
from batt_supervisor.config import Settings
from batt_supervisor.core.headroom import Entry, Holder, Resource
from batt_supervisor.core.world import SlotView
from batt_supervisor.daemon.snapshot import Snapshot
from batt_supervisor.pool.nursery import ROOT
from batt_supervisor.wire import (
    HeadroomInfo,
    HeadroomReport,
    HolderInfo,
    LevelChange,
    LimitInfo,
    PressureInfo,
    PromiseInfo,
    ServiceInfo,
    SlotInfo,
    run_name,
    task_name,
)


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
                phase=slot.trouble or _phase(slot.view, snapshot),
                worker_pid=slot.worker_pid,
                served=slot.view.served,
                renewed=slot.renewed,
                cwd=slot.view.room.cwd,
                task=task_name(snapshot.tasks[slot.view.id]) if slot.view.id in snapshot.tasks else None,
                progress=slot.progress if slot.view.id in snapshot.tasks else None,
            )
            for slot in snapshot.slots
        ),
        headroom=_headroom(snapshot, settings),
        holds={run_name(run_id): hold.reason for run_id, hold in snapshot.holds.items() if hold.short not in ORDINARY},
        store=snapshot.store,
        kill_by=kill_by,
        start_method=settings.start_method,
        counts={},
        outcomes={},
        runs=(),
    )


def _phase(slot: SlotView, snapshot: Snapshot) -> str:
    task_id = snapshot.tasks.get(slot.id)
    if task_id is None:
        return slot.phase.value
    return "writing" if task_id in snapshot.writing else "busy"


def _headroom(snapshot: Snapshot, settings: Settings) -> HeadroomInfo:
    free = snapshot.reading.free()
    promised = snapshot.promised + snapshot.others.promised
    throttle = snapshot.throttle
    return HeadroomInfo(
        memory_free_bytes=free.space.memory_bytes,
        memory_limit=free.memory_limit,
        threads_free=free.space.threads,
        threads_limit=free.threads_limit,
        memory_promised_bytes=promised.memory_bytes,
        threads_promised=promised.threads,
        memory_reserve_bytes=snapshot.reserve.memory_bytes,
        threads_reserve=snapshot.reserve.threads,
        level=throttle.level.value,
        level_reason=throttle.told() or _narrow(snapshot, settings),
        width=min(throttle.at_once, snapshot.built or settings.slots),
    )


def _narrow(snapshot: Snapshot, settings: Settings) -> str:
    if 0 < snapshot.built < settings.slots:
        return f"{snapshot.built} of {settings.slots} slots, no room for more yet"
    return ""


def report(settings: Settings, snapshot: Snapshot) -> HeadroomReport:
    """Everything that admission goes by, for `battctl headroom`."""
    reading = snapshot.reading
    binding = [reading.binding(resource) for resource in Resource]
    own = Holder(os.getpid(), str(settings.state_dir), Entry(snapshot.promised, running=len(snapshot.promises)))
    return HeadroomReport(
        headroom=_headroom(snapshot, settings),
        limits=tuple(
            LimitInfo(
                resource=one.resource.value,
                name=one.name,
                source=one.source,
                limit=one.limit,
                used=one.used,
                free=one.free,
                each=one.each,
                binds=one in binding,
            )
            for one in reading.limits
        ),
        pressure=PressureInfo(**asdict(reading.pressure)),
        missing=tuple(reading.missing),
        ledger=snapshot.ledger,
        holders=(_holder(own, own=True), *(_holder(one, own=False) for one in snapshot.others.holders)),
        promises=tuple(
            PromiseInfo(
                task=task_name(one.task_id),
                kind=one.kind,
                memory_need_bytes=one.need.memory_bytes,
                threads_need=one.need.threads,
                memory_used_bytes=one.used.memory_bytes if one.used else None,
                threads_used=one.used.threads if one.used else None,
            )
            for one in snapshot.promises
        ),
        level_changes=snapshot.changed,
        recent_changes=tuple(
            LevelChange(at_ms=one.at_ms, level=one.level.value, width=one.width, reason=one.reason)
            for one in snapshot.changes
        ),
        evictions=snapshot.evictions,
    )


def _holder(holder: Holder, *, own: bool) -> HolderInfo:
    return HolderInfo(
        pid=holder.pid,
        name=holder.name,
        running=holder.entry.running,
        memory_promised_bytes=holder.entry.promised.memory_bytes,
        threads_promised=holder.entry.promised.threads,
        own=own,
    )
