"""Routes of pruning: which ended runs go, by name or by rule, and what the store takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI

from batt_supervisor.api.service import Service
from batt_supervisor.core import retention
from batt_supervisor.core.lifecycle import OPEN, RunState, run_state
from batt_supervisor.core.retention import Ended, Excess, Rules
from batt_supervisor.errors import BadInput, Refused
from batt_supervisor.store.files import Weighing
from batt_supervisor.store.protocol import Writes
from batt_supervisor.store.rows import Age, EndedRow, RunRow
from batt_supervisor.wire import Pruned, PrunedRun, PruneSpec, StoreSize, run_name

PAGE: Final = 200
"""Ended runs that are looked at before others are answered."""

MARKED: Final = 100
"""Runs that are marked in one operation."""

WEIGHED: Final = 1_000
"""Tasks that are weighed before others are answered."""

EVERYTHING: Final = 2**62

LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Chosen:
    """A run that goes, and why."""

    row: EndedRow
    state: RunState
    reason: str


def add_to(app: FastAPI, service: Service) -> None:
    """Add them to the API."""

    @app.get("/v1/prune")
    async def read_size() -> StoreSize:
        return await _size(service)

    @app.post("/v1/prune")
    async def prune(spec: PruneSpec) -> Pruned:
        _check(spec)
        before = await _size(service)
        chosen = await _chosen(service, spec, before)
        events = 0
        if not spec.dry_run:
            chosen = await _marked(service, chosen)
            events = 0 if _is_asked(spec) else await _forget(service)
            service.prune_asked()
            await _until_gone(service, {one.row.id for one in chosen}, spec.wait_s)
        return Pruned(
            runs=tuple(_shown(one) for one in chosen),
            events=events,
            dry_run=spec.dry_run,
            before=before,
            after=before if spec.dry_run else await _size(service),
        )


def _check(spec: PruneSpec) -> None:
    if spec.runs and (spec.older_than_s, spec.state, spec.keep, spec.max_bytes) != (None, None, None, None):
        raise BadInput("runs: what is named goes whatever its age or state is; name runs, or say which, not both")


def _is_asked(spec: PruneSpec) -> bool:
    """Whether somebody said what is to go; otherwise the configuration does."""
    return bool(spec.runs) or (spec.older_than_s, spec.state, spec.keep, spec.max_bytes) != (None, None, None, None)


async def _marked(service: Service, chosen: list[Chosen]) -> list[Chosen]:
    """Mark all of them as going; those that were still to be had."""
    marked: list[Chosen] = []
    for start in range(0, len(chosen), MARKED):
        part = chosen[start : start + MARKED]
        marked += await service.write(lambda tx, part=part: [one for one in part if _mark(tx, one)])  # type: ignore[misc]
    return marked


def _mark(tx: Writes, one: Chosen) -> bool:
    try:
        return tx.remove_run(one.row.id, one.reason)
    except Refused:
        return False  # a retry has just opened it again


async def _chosen(service: Service, spec: PruneSpec, size: StoreSize) -> list[Chosen]:
    if spec.runs:
        return _named(service, spec.runs)
    rules = _rules(spec) if _is_asked(spec) else service.settings().rules()
    total = size.database_bytes + size.results_bytes + size.logs_bytes
    rows = [row async for row in _ended(service, spec.state)]
    excess = Excess(len(rows) - (rules.runs or 0), total - (rules.size_bytes or 0))
    age = service.reader.age()
    chosen: list[Chosen] = []
    for row in rows:
        state = _state(row)
        weight = await _weight(service, row.id) if rules.size_bytes is not None and excess.size_bytes > 0 else 0
        run = Ended(state, _age_s(row, age, asked=_is_asked(spec)), weight)
        if spec.state is not None and (spec.older_than_s, spec.keep, spec.max_bytes) == (None, None, None):
            chosen.append(Chosen(row, state, f"asked for: {spec.state} runs"))
        elif reason := retention.why_goes(run, rules, excess):
            chosen.append(Chosen(row, state, reason))
            excess = excess.without(run)
    return chosen


def _rules(spec: PruneSpec) -> Rules:
    """What was asked for, as rules: whoever asks now wants no run to be kept for a while."""
    return Rules(spec.older_than_s, spec.older_than_s, spec.older_than_s, spec.keep, spec.max_bytes)


def _age_s(row: EndedRow, age: Age, *, asked: bool) -> float:
    """Its age: to whoever asks for one it is what the clock says, to the configuration time that was seen to pass."""
    if asked:
        return max(0.0, time.time() - row.ended_at_ms / 1000)
    return retention.age_s(row.ended_seq, age.lived_ms, age.marks)


def _state(row: EndedRow) -> RunState:
    return run_state(row.counts, sealed=True, deadline_cut=row.deadline_cut)


def _named(service: Service, references: Sequence[str]) -> list[Chosen]:
    """The runs that are named, each once.

    Raises:
        NotFound: There is none of that name.
        Refused: It has not ended; nothing is removed then.
    """
    rows = {row.id: row for row in (service.run(reference) for reference in references)}
    return [_named_one(service, row) for row in rows.values()]


def _named_one(service: Service, row: RunRow) -> Chosen:
    counts = service.counts(row.id)
    if row.sealed_at_ms is None:
        raise Refused(f"run {run_name(row.id)} ({row.name}) is still being submitted; `battctl cancel` gives it up")
    if row.ended_at_ms is None:
        left = sum(counts.get(state, 0) for state in OPEN)
        raise Refused(
            f"run {run_name(row.id)} ({row.name}) has not ended, {left} of its tasks are open; cancel it first"
        )
    found = EndedRow(row.id, row.name, row.task_count, row.ended_at_ms, 0, row.deadline_cut, counts)
    return Chosen(found, _state(found), "asked for by name")


async def _ended(service: Service, state: RunState | None) -> AsyncIterator[EndedRow]:
    """Ended runs in the order in which they ended; those of one state only, where it is given."""
    after = (-1, 0)
    while True:
        rows = service.reader.ended(after, EVERYTHING, PAGE)
        for row in rows:
            if state is None or _is(_state(row), state):
                yield row
        if len(rows) < PAGE:
            return
        after = (rows[-1].ended_seq, rows[-1].id)
        await asyncio.sleep(0)


def _is(found: RunState, wanted: RunState) -> bool:
    """One that its deadline has cut counts as cancelled."""
    return found is wanted or (wanted is RunState.CANCELLED and found is RunState.PARTIAL)


# Sizes


async def _size(service: Service) -> StoreSize:
    space = service.reader.space()
    return StoreSize(
        database_bytes=space.used_bytes,
        database_free_bytes=space.free_bytes,
        shrinks=space.shrinks,
        results_bytes=await _weigh(Weighing(service.results)),
        logs_bytes=await _weigh(Weighing(service.logs)),
        removing=service.removing() or bool(service.reader.going()),
    )


async def _weigh(weighing: Weighing) -> int:
    try:
        while not weighing.done:
            weighing.step()
            await asyncio.sleep(0)
    finally:
        weighing.close()
    return weighing.size_bytes


async def _weight(service: Service, run_id: int) -> int:
    """What the removal of a run would free, about."""
    size, after = 0, -1
    while True:
        found = service.reader.weigh(run_id, after, WEIGHED)
        size += found.in_database_bytes + found.in_logs_bytes
        for name in found.files:
            try:
                size += (service.results / name).stat().st_size
            except FileNotFoundError:
                continue  # it is being removed
        if found.last is None:
            return size
        after = found.last
        await asyncio.sleep(0)


# Removal


async def _forget(service: Service) -> int:
    """Remove the events that are too old by the configuration; how many."""
    older_s = service.settings().rules().events_s
    if older_s is None:
        return 0
    age = service.reader.age()
    up_to = retention.written_before(older_s, age.lived_ms, age.marks)
    events = 0
    while some := await service.write(lambda tx: tx.forget_events(up_to)):
        events += some
    return events


async def _until_gone(service: Service, run_ids: set[int], wait_s: float) -> None:
    until_s = time.monotonic() + wait_s
    while time.monotonic() < until_s and not service.draining():
        await asyncio.sleep(LOOK_S)
        if run_ids.isdisjoint(service.reader.going()) and not service.removing():
            return


def _shown(one: Chosen) -> PrunedRun:
    return PrunedRun(
        run=run_name(one.row.id),
        name=one.row.name,
        state=one.state,
        tasks=one.row.task_count,
        ended_at_ms=one.row.ended_at_ms,
        reason=one.reason,
    )
