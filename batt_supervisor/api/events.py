"""The routes of the event log: a page of it, waited for if need be, and one task's story."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import Response

from batt_supervisor.api.service import Service
from batt_supervisor.errors import BadInput
from batt_supervisor.store.rows import EventRow
from batt_supervisor.wire import EventInfo, EventPage, run_name, task_name

PAGE_MAX = 5_000


def add_to(app: FastAPI, service: Service) -> None:
    @app.get("/v1/events", response_model=EventPage)
    async def read_events(
        after: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 1000,
        run: str | None = None,
        wait_s: Annotated[float, Query(ge=0, le=30)] = 0,
    ) -> Response:
        run_id = _run_id(service, run)
        last = service.reader.events_kept().last
        start = last if after is None else after
        if start > last:
            raise BadInput(f"after: {start} is no event of this log yet, its last is {last}")
        found = service.reader.events(start, limit, run_id)

        def there() -> bool:
            nonlocal found
            found = service.reader.events(found.next, limit, run_id)
            return bool(found.events) or found.more

        if wait_s and not (found.events or found.more):
            await service.wait_for_events(there, wait_s)
        span = service.reader.events_kept()  # only now: what retention removes meanwhile is missed as well
        page: dict[str, object] = {
            "items": [_plain(event) for event in found.events],
            "next": found.next,
            "first": span.first,
            "missed": max(0, (span.first or span.last + 1) - start - 1),
            "more": found.more,
        }
        return _answer(page)

    @app.get("/v1/tasks/{task}/events", response_model=list[EventInfo])
    async def read_story(task: str) -> Response:
        return _answer([_plain(event) for event in service.reader.story(service.task(task).id)])


def _run_id(service: Service, run: str | None) -> int | None:
    """The run that is meant; by its id also one that has been removed since, for its events may still be there."""
    if run is None:
        return None
    match = re.fullmatch(r"r?(\d{1,18})", run)
    if match and service.reader.was_there(int(match[1])):
        return int(match[1])
    return service.run(run).id


def _plain(event: EventRow) -> dict[str, object]:
    return {
        "seq": event.seq,
        "at_ms": event.at_ms,
        "event": event.event,
        "run": None if event.run_id is None else run_name(event.run_id),
        "task": None if event.task_id is None else task_name(event.task_id),
        "attempt": event.attempt,
        "from": event.was,
        "to": event.now_is,
        "outcome": event.outcome,
        "reason": event.reason,
    }


def _answer(plain: dict[str, object] | Iterable[dict[str, object]]) -> Response:
    # Thousands of small objects: pydantic would take longer for them than the disk.
    return Response(json.dumps(plain, separators=(",", ":")), media_type="application/json")
