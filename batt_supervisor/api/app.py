"""The routes. All of them are `async`: synchronous ones would start threads on demand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Final, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from batt_supervisor import __version__
from batt_supervisor.api import accept, events, prune, show
from batt_supervisor.api.answer import answer
from batt_supervisor.api.limit import BodyLimit
from batt_supervisor.api.service import Service
from batt_supervisor.core.lifecycle import SETTLED, State
from batt_supervisor.core.world import Closing
from batt_supervisor.errors import BadInput, BattError, NotFound, Refused, StoreUnavailable, nearest
from batt_supervisor.sentences import complaint
from batt_supervisor.store import values
from batt_supervisor.store.protocol import Writes
from batt_supervisor.store.rows import RunRow, TaskRow
from batt_supervisor.wire import (
    Changed,
    HeadroomReport,
    KindInfo,
    LogText,
    Problem,
    ResultPage,
    RunCreated,
    RunInfo,
    RunSpec,
    ServiceInfo,
    StageSpec,
    TaskChunk,
    TaskInfo,
    TaskResult,
    TaskSpec,
    Why,
    dumps,
    run_name,
    task_name,
)

WRITE_ROWS = 1_000
"""Most rows of a submission that are written in one operation, so that nobody waits long for the writer."""

WRITE_BYTES = 2**20
"""Most bytes of arguments in one such operation, unless a single task has more."""

BODY_MAX = 64 * 2**20
"""Bytes of one request; the client sends about one MiB at a time."""

LOG_MAX = 4 * 2**20
PAGE_MAX = 5_000
PAGE_BYTES = 16 * 2**20


def create_app(service: Service) -> FastAPI:
    """The API over a service."""

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, StoreUnavailable):
            service.failed(error)
        return await _refuse(request, error)

    app = FastAPI(title="battd", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, limit=BODY_MAX)
    app.add_exception_handler(BattError, refuse)
    app.add_exception_handler(RequestValidationError, _refuse_shape)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(Exception, _refuse_unforeseen)
    _service_routes(app, service)
    _submit_routes(app, service)
    _run_routes(app, service)
    _task_routes(app, service)
    prune.add_to(app, service)
    events.add_to(app, service)
    return app


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BattError)
    return JSONResponse(Problem(error=error.code, message=str(error)).model_dump(), error.http_status)


async def _refuse_unforeseen(request: Request, error: Exception) -> JSONResponse:
    """A defect of battd's: Starlette logs it with its traceback, and only this request is lost."""
    problem = Problem(error=BattError.code, message=f"{type(error).__name__} in battd; see its log")
    return JSONResponse(problem.model_dump(), BattError.http_status)


async def _refuse_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = NotFound.code if error.status_code == NotFound.http_status else BadInput.code
    problem = Problem(error=code, message=f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(problem.model_dump(), error.status_code)


async def _refuse_shape(request: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with a request's shape, as one sentence that names the field."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    if first["type"] == "extra_forbidden":
        fields = {*RunSpec.model_fields, *StageSpec.model_fields, *TaskSpec.model_fields, *TaskChunk.model_fields}
        message = f"unknown field {field!r}{nearest(field.rpartition('.')[2], fields)}"
    else:
        message = f"{field}: {complaint(first)}" if field else complaint(first)
    return JSONResponse(Problem(error=BadInput.code, message=message).model_dump(), BadInput.http_status)


def _service_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/service")
    async def read_service() -> ServiceInfo:
        try:
            with service.reader.snapshot():
                states, outcomes = show.counted(service.reader.totals())
                runs = tuple(show.run_info(service, row) for row in service.reader.runs(10))
        except StoreUnavailable as error:  # told in its place, with everything else that there is to be told
            service.failed(error)
            return service.describe().model_copy(update={"store": str(error)})
        return service.describe().model_copy(update={"counts": states, "outcomes": outcomes, "runs": runs})

    @app.get("/v1/kinds")
    async def read_kinds() -> list[KindInfo]:
        return show.kinds(service.reader.kinds(), service.settings().policy().need)


def _submit_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/check", status_code=204)
    async def check_run(spec: RunSpec) -> Response:
        accept.new_run(spec, service.settings(), os.environ, service.total())
        return Response(status_code=204)

    @app.post("/v1/runs")
    async def create_run(spec: RunSpec) -> RunCreated:
        if service.draining():
            raise Refused("battd is going down and takes no new runs")
        run = accept.new_run(spec, service.settings(), os.environ, service.total())
        return _created(await service.write(lambda tx: tx.create_run(run)))

    @app.post("/v1/runs/{run}/tasks")
    async def add_tasks(run: str, chunk: TaskChunk) -> RunCreated:
        row = service.run(run)
        commands = {stage.number for stage in service.reader.stages(row) if stage.work.command}
        tasks = _new_tasks(chunk, commands, service.settings().max_args_bytes)

        def adding(start: int, part: Sequence[values.NewTask]) -> Callable[[Writes], values.Created]:
            return lambda tx: tx.add_tasks(row.id, chunk.offset + start, part)

        # All of them are the writer's at once, for it can make one commit of them.
        written = await asyncio.gather(*(service.write(adding(*part)) for part in _parts(tasks)))
        return _created(written[-1])

    @app.post("/v1/runs/{run}/seal")
    async def seal_run(run: str, tasks: Annotated[int | None, Query(ge=0)] = None) -> RunCreated:
        row = service.run(run)
        created = await service.write(lambda tx: tx.seal(row.id, tasks))
        service.run_changed(row.id)
        return _created(created)

    @app.delete("/v1/runs/{run}", status_code=204)
    async def discard_run(run: str) -> Response:
        await _discard(service, service.run(run))
        return Response(status_code=204)


async def _discard(service: Service, row: RunRow) -> None:
    while not await service.write(lambda tx: tx.discard(row.id)):
        continue


def _created(row: values.Created) -> RunCreated:
    return RunCreated(run=run_name(row.id), tasks=row.tasks, sealed=row.sealed, existing=row.existing)


def _new_tasks(chunk: TaskChunk, commands: set[int], limit: int) -> list[values.NewTask]:
    """Tasks as the store has them; `commands` are the stages that run one.

    Raises:
        BadInput: The first of them that is wrong, by its place in the run.
    """
    tasks: list[values.NewTask] = []
    for task in chunk.tasks:
        index = chunk.offset + len(tasks)
        try:
            args = dumps(task.get("args", []))
        except ValueError as error:
            raise BadInput(f"task {index}: its arguments are not JSON: {error}") from error
        if len(args) > limit:
            raise BadInput(f"task {index}: its arguments are {len(args)} bytes, max_args_bytes is {limit}")
        stage = task.get("stage", 0)
        if stage in commands and args[0] == "[" and args != "[]":
            raise BadInput(f'task {index}: a command takes {{"item": TEXT}} or nothing')
        tasks.append(values.NewTask(stage, args, task.get("key")))
    return tasks


def _parts(tasks: Sequence[values.NewTask]) -> Iterator[tuple[int, Sequence[values.NewTask]]]:
    """Tasks in parts that are written in one operation each, with the place of each part's first one."""
    start, size = 0, 0
    for place, task in enumerate(tasks):
        if place > start and (place - start == WRITE_ROWS or size + len(task.args) > WRITE_BYTES):
            yield start, tasks[start:place]
            start, size = place, 0
        size += len(task.args)
    yield start, tasks[start:]


def _run_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/runs")
    async def list_runs(limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> list[RunInfo]:
        with service.reader.snapshot():
            return [show.run_info(service, row) for row in service.reader.runs(limit)]

    @app.get("/v1/runs/{run}")
    async def read_run(run: str, wait_s: Annotated[float, Query(ge=0, le=30)] = 0, since: int | None = None) -> RunInfo:
        row = service.run(run)

        def moved() -> bool:
            if service.run(run_name(row.id)).ended_at_ms is not None:
                return True
            settled = sum(count for state, count in service.counts(row.id).items() if state in SETTLED)
            return since is not None and settled != since

        if wait_s:
            await service.wait_for_change(row.id, moved, wait_s)
        with service.reader.snapshot():
            return show.run_info(service, service.run(run_name(row.id)))

    @app.get("/v1/runs/{run}/results", response_model=ResultPage)
    async def read_results(
        run: str,
        order: Literal["index", "settled"] = "index",
        after: int = -1,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 1000,
        state: State | None = None,
    ) -> Response:
        with service.reader.snapshot():  # or a page could be half of a run that is just being removed
            row = service.run(run)
            stages = {stage.number: stage for stage in service.reader.stages(row)}
            ended = row.ended_at_ms is not None
            tasks = service.reader.tasks(row.id, state=state, by_settling=order == "settled", after=after, limit=limit)
        items: list[TaskResult] = []
        size = 0
        for task in tasks:
            items.append(show.task_result(task, stages[task.stage], service.results))
            size += show.size_of(items[-1])
            if size > PAGE_BYTES:
                break
        last = tasks[len(items) - 1] if items else None
        whole = len(items) == len(tasks) < limit
        mark = None if last is None else (last.settled_seq if order == "settled" else last.idx)
        page = ResultPage(items=tuple(items), next=None if whole and ended else mark, ended=ended and whole)
        return answer(page)

    @app.post("/v1/runs/{run}/cancel")
    async def cancel_run(run: str) -> Changed:
        row = service.run(run)
        if row.sealed_at_ms is None:
            await _discard(service, row)
            return Changed(run=run_name(row.id), tasks=row.task_count)
        count = await service.write(lambda tx: tx.ask_close(row.id, Closing.CANCEL))
        service.run_changed(row.id)
        return Changed(run=run_name(row.id), tasks=count)

    @app.post("/v1/runs/{run}/retry")
    async def retry_run(run: str, state: State | None = None) -> Changed:
        row = service.run(run)
        states = [state] if state else [State.FAILED, State.CANCELLED]
        if state is not None and state not in (State.FAILED, State.CANCELLED):
            raise BadInput(f"state: only failed and cancelled tasks can be retried, not {state} ones")
        total = 0
        try:
            while count := await service.write(lambda tx: tx.retry_some(row.id, None, states)):
                total += count
        finally:  # some may be queued again by now, whatever has become of the others
            service.run_changed(row.id)
        return Changed(run=run_name(row.id), tasks=total)


def _task_routes(app: FastAPI, service: Service) -> None:
    def result(row: TaskRow) -> TaskResult:
        run = service.run(run_name(row.run_id))
        return show.task_result(row, service.reader.stages(run)[row.stage], service.results)

    @app.get("/v1/tasks/{task}", response_model=TaskInfo)
    async def read_task(task: str) -> Response:
        row = service.task(task)
        stage = service.reader.stages(service.run(run_name(row.run_id)))[row.stage]
        found = TaskInfo(
            task=result(row),
            function=stage.work.function,
            command=stage.work.command or None,
            attempts=tuple(show.attempt_info(attempt) for attempt in service.reader.attempts(row.id)),
        )
        return answer(found)

    @app.get("/v1/tasks/{task}/log")
    async def read_log(
        task: str, attempt: int | None = None, tail_bytes: Annotated[int, Query(ge=1, le=LOG_MAX)] = 2**20
    ) -> LogText:
        row = service.task(task)
        attempts = service.reader.attempts(row.id)
        found = next((one for one in attempts if one.number == (attempt or row.attempt)), None)
        if found is None:
            raise NotFound(
                f"task {task_name(row.id)} has had {len(attempts)} attempts, there is no {attempt or 'first'}"
            )
        if found.log is None or found.log_from is None or found.log_to is None or found.log_from >= found.log_to:
            return LogText(task=task_name(row.id), attempt=found.number, text="", truncated=False)
        start = max(found.log_from, found.log_to - tail_bytes)
        try:
            with (service.logs / found.log).open("rb") as written:
                written.seek(start)
                text = written.read(found.log_to - start).decode(errors="replace")
        except FileNotFoundError as error:
            raise NotFound(f"the log of task {task_name(row.id)} is no longer there") from error
        return LogText(task=task_name(row.id), attempt=found.number, text=text, truncated=start > found.log_from)

    @app.get("/v1/headroom")
    async def read_headroom() -> HeadroomReport:
        assert service.headroom is not None  # only parts of a test go without
        return service.headroom()

    @app.get("/v1/tasks/{task}/why")
    async def read_why(task: str) -> Why:
        row = service.task(task)
        hold = service.hold_of(row) if row.state is State.QUEUED else None
        return Why(
            task=task_name(row.id),
            state=row.state,
            reason=_WRITING if row.id in service.writing() else _reason(row, hold.reason if hold else ""),
            short=hold.short if hold else None,
            missing=hold.missing if hold else None,
        )

    @app.post("/v1/tasks/{task}/cancel")
    async def cancel_task(task: str) -> Changed:
        row = service.task(task)
        state = await service.write(lambda tx: tx.stop_task(row.id))
        if state is State.STOPPING:
            service.stop_asked(row.id)
        service.run_changed(row.run_id)
        return Changed(run=run_name(row.run_id), tasks=1)

    @app.post("/v1/tasks/{task}/retry")
    async def retry_task(task: str) -> Changed:
        row = service.task(task)
        states = [State.FAILED, State.CANCELLED]
        count = await service.write(lambda tx: tx.retry_some(row.run_id, row.id, states))
        if not count:
            raise Refused(f"task {task_name(row.id)} is {row.state}: only failed and cancelled tasks can be retried")
        service.run_changed(row.run_id)
        return Changed(run=run_name(row.run_id), tasks=count)


_WRITING: Final = "it has returned; its result is being written, or waits for a disk that takes no writes now"


def _reason(row: TaskRow, hold: str) -> str:
    match row.state:
        case State.QUEUED:
            return hold or "it is queued; nothing holds it, its turn comes"
        case State.SCHEDULED:
            return f"it waits for its next attempt after: {row.reason or row.outcome}"
        case State.WAITING:
            return "it waits for the tasks of an earlier stage to end"
        case State.RUNNING:
            return f"attempt {row.attempt} is running"
        case State.STOPPING:
            return "it was told to stop; its end has not been seen yet"
        case _:
            return f"{row.outcome}: {row.reason}" if row.reason else f"{row.outcome}"
