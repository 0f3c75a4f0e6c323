"""battd's HTTP API as typed methods. Starts no threads, so that it works where none can be started."""

from __future__ import annotations

import errno
import socket as socket_module
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from batt_supervisor.chunks import Chunks
from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import BattError, NotFound, Refused, Unreachable
from batt_supervisor.paths import SOCKET_NAME
from batt_supervisor.wire import (
    Changed,
    EventInfo,
    EventPage,
    HeadroomReport,
    KindInfo,
    LogText,
    Problem,
    Pruned,
    PruneSpec,
    ResultPage,
    RunCreated,
    RunInfo,
    RunSpec,
    ServiceInfo,
    StoreSize,
    TaskInfo,
    TaskResult,
    TaskSpec,
    Why,
)

WAIT_LONGEST_S: Final = 30.0

_Shape = TypeVar("_Shape")

# A service that is restarted is back within a second or two; ten seconds cover a slow host.
_PAUSES_S: Final = (0.1, 0.3, 1.0, 3.0, 6.0)


class Client:
    """One connection to battd. Not for use by several threads at once.

    Every method raises `Unreachable` when nobody answers, and else the error that battd answered with.

    Args:
        socket: Path of battd's unix socket.
        timeout: Seconds that an answer may take, beyond what a call asks battd to wait.
        pauses_s: Pauses between the tries of a submission whose connection was lost.
        sleep: What pauses.
    """

    def __init__(
        self,
        socket: Path,
        timeout: float = 30.0,
        *,
        pauses_s: Sequence[float] = _PAUSES_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.socket = socket
        self._timeout_s = timeout
        self._pauses_s = pauses_s
        self._sleep = sleep
        self._reached = False
        # trust_env off: proxies of the environment have no say about a unix socket.
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket), trust_env=False), base_url="http://battd", trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # The service

    def service(self) -> ServiceInfo:
        return self._get(ServiceInfo, "/v1/service")

    def service_raw(self) -> dict[str, Any]:
        """The service as plain JSON, for comparing versions with a battd whose shapes are not ours."""
        answer = self._json(self._read("/v1/service"))
        return answer if isinstance(answer, dict) else {}

    def headroom(self) -> HeadroomReport:
        """Everything that admission goes by; `NotFound` from a battd that is too old to tell."""
        return self._get(HeadroomReport, "/v1/headroom")

    def kinds(self) -> list[KindInfo]:
        """What was learned of each kind of tasks, the one that was updated last first."""
        return self._get(list[KindInfo], "/v1/kinds")

    def events(
        self, *, after: int | None = None, run: str | None = None, limit: int = 1000, wait_s: float = 0.0
    ) -> EventPage:
        """A page of the event log.

        Args:
            after: The number of the last event that is known, or 0; None for what has not happened yet.
            run: Only events of this run and its tasks.
            wait_s: Let battd wait so long (30 s at most) until there is one.
        """
        wait_s = min(wait_s, WAIT_LONGEST_S)
        params = {"after": after, "run": run, "limit": limit, "wait_s": wait_s or None}
        return self._get(EventPage, "/v1/events", params, wait_s=wait_s)

    # Runs

    def runs(self, limit: int = 20) -> list[RunInfo]:
        """The latest runs, newest first."""
        return self._get(list[RunInfo], "/v1/runs", {"limit": limit})

    def run(self, run: str, *, wait_s: float = 0.0, since: int | None = None) -> RunInfo:
        """A run as it stands.

        Args:
            wait_s: Let battd wait so long (30 s at most) until the run has ended.
            since: Or until the number of settled tasks is no longer this.
        """
        wait_s = min(wait_s, WAIT_LONGEST_S)
        params: dict[str, object] = {"wait_s": wait_s} if wait_s > 0 else {}
        if since is not None and wait_s > 0:
            params["since"] = since
        return self._get(RunInfo, _path("/v1/runs", run), params, wait_s=wait_s)

    def results(
        self,
        run: str,
        *,
        order: Literal["index", "settled"] = "index",
        after: int | None = None,
        limit: int = 1000,
        state: State | None = None,
    ) -> ResultPage:
        """One page of results; `after` is the `next` of the page before."""
        params = {"order": order, "after": after, "limit": limit, "state": state}
        return self._get(ResultPage, _path("/v1/runs", run, "results"), params)

    def all_results(
        self, run: str, *, order: Literal["index", "settled"] = "index", state: State | None = None
    ) -> Iterator[TaskResult]:
        """Every result there is now, page by page."""
        after: int | None = None
        while True:
            page = self.results(run, order=order, after=after, state=state)
            yield from page.items
            if page.items:
                run = page.items[-1].run  # a name may mean another run by the next page
            if page.next is None:
                return
            after = page.next

    def cancel(self, run: str) -> Changed:
        return self._post(Changed, _path("/v1/runs", run, "cancel"))

    def retry(self, run: str, *, state: State | None = None) -> Changed:
        """Queue settled tasks again: those that failed or were cancelled, or only those in `state`."""
        return self._post(Changed, _path("/v1/runs", run, "retry"), {"state": state})

    def prune(self, spec: PruneSpec) -> Pruned:
        """Remove ended runs. They are gone when this returns; of very large ones the disk is freed a while later."""
        body = spec.model_dump_json().encode()
        return self._shape(Pruned, self._send("POST", "/v1/prune", body=body, wait_s=WAIT_LONGEST_S))

    def store_size(self) -> StoreSize:
        """What the store takes on the disk, and whether something is being removed."""
        return self._get(StoreSize, "/v1/prune")

    # Tasks

    def task(self, task: str) -> TaskInfo:
        return self._get(TaskInfo, _path("/v1/tasks", task))

    def log(self, task: str, *, attempt: int | None = None, tail_bytes: int | None = None) -> LogText:
        """What an attempt wrote, the last attempt if none is named."""
        return self._get(LogText, _path("/v1/tasks", task, "log"), {"attempt": attempt, "tail_bytes": tail_bytes})

    def story(self, task: str) -> list[EventInfo]:
        """Everything that has happened to a task, oldest first, as far back as battd keeps its events."""
        return self._get(list[EventInfo], _path("/v1/tasks", task, "events"))

    def why(self, task: str) -> Why:
        return self._get(Why, _path("/v1/tasks", task, "why"))

    def cancel_task(self, task: str) -> Changed:
        return self._post(Changed, _path("/v1/tasks", task, "cancel"))

    def retry_task(self, task: str) -> Changed:
        return self._post(Changed, _path("/v1/tasks", task, "retry"))

    # Submission

    def submit(self, spec: RunSpec, tasks: Iterable[TaskSpec]) -> RunCreated:
        """Create a run with these tasks; either all of it is there afterwards, or nothing.

        `tasks` is read as it is sent. Whatever it raises discards the run. A lost connection is tried again, which
        creates nothing twice: the run has a key, and a chunk has its place in the run.

        Returns:
            The run; `existing` when the key of `spec` had been used before, for the same tasks.
        """
        given_key = spec.key is not None or spec.unique_name
        named = spec.name if spec.key is None else None
        if spec.key is None:
            spec = spec.model_copy(update={"key": f"auto-{uuid.uuid4().hex}"})
        created, lost = self._create(spec)
        # Our own first try may have made it before its answer was lost.
        existing = given_key and created.existing and not (lost and not created.sealed and created.tasks == 0)
        try:
            # To a run that is complete, too: battd sees whether it is the same ones.
            chunks = Chunks(tasks)
            for body in chunks:
                self._insist("POST", _path("/v1/runs", created.run, "tasks"), body, meanwhile=chunks.prepare)
            sealed = self._seal(created.run, chunks.tasks)
        except Unreachable as error:
            if created.sealed:
                unknown = f"run {created.run} is complete; whether it has the same tasks is not known"
                raise Unreachable(f"{error} ({unknown})") from error
            same = f"the key {spec.key!r}" if named is None else f"the name {named!r}"
            again = f"; submit again with {same} to go on with it" if given_key else ""
            raise Unreachable(f"{error} (run {created.run} was not complete yet and does not start{again})") from error
        except BaseException:
            if not existing:
                # Where even this fails, battd lets the run expire; it never starts.
                with suppress(BattError):
                    self._insist("DELETE", _path("/v1/runs", created.run))
            raise
        return sealed.model_copy(update={"existing": existing})

    def check(self, spec: RunSpec) -> None:
        """Have battd check a run's specification, creating nothing; raises what `submit` would."""
        self._send("POST", "/v1/check", body=spec.model_dump_json().encode())

    def _create(self, spec: RunSpec) -> tuple[RunCreated, bool]:
        answer, lost = self._insist("POST", "/v1/runs", spec.model_dump_json().encode(), first=True)
        return self._shape(RunCreated, answer), lost

    def _seal(self, run: str, tasks: int) -> RunCreated:
        answer, _ = self._insist("POST", _path("/v1/runs", run, "seal"), params={"tasks": tasks})
        return self._shape(RunCreated, answer)

    def _insist(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        params: Mapping[str, object] | None = None,
        first: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[httpx.Response, bool]:
        """Send what may safely be sent twice, several times if need be; also whether an answer was lost before.

        Args:
            first: Nothing has been sent so far; a service that is not there is no restart, then.
            meanwhile: Called once `body` has been sent, before the answer is waited for.
        """
        lost = False
        for pause_s in (*self._pauses_s, None):
            try:
                return self._send(method, path, params, body=body, meanwhile=meanwhile), lost
            except Unreachable as error:
                if pause_s is None or (first and not lost and isinstance(error.__cause__, OSError)):
                    raise
                lost = True
                self._sleep(pause_s)
        raise AssertionError("the last pause is None")

    # Requests

    def _get(
        self, shape: type[_Shape], path: str, params: Mapping[str, object] | None = None, *, wait_s: float = 0.0
    ) -> _Shape:
        return self._shape(shape, self._read(path, params, wait_s=wait_s))

    def _post(self, shape: type[_Shape], path: str, params: Mapping[str, object] | None = None) -> _Shape:
        return self._shape(shape, self._send("POST", path, params))

    def _read(self, path: str, params: Mapping[str, object] | None = None, *, wait_s: float = 0.0) -> httpx.Response:
        try:
            return self._send("GET", path, params, wait_s=wait_s)
        except Unreachable as error:
            if isinstance(error.__cause__, OSError | httpx.TimeoutException):
                raise
        # A kept connection ends with the battd that it went to; the one that serves now gets a fresh one.
        return self._send("GET", path, params, wait_s=wait_s)

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, object] | None = None,
        *,
        body: bytes | None = None,
        wait_s: float = 0.0,
        meanwhile: Callable[[], None] | None = None,
    ) -> httpx.Response:
        self._reach()
        query = {name: str(value) for name, value in (params or {}).items() if value is not None}
        headers = {"content-type": "application/json"} if body is not None else {}
        content: bytes | Iterator[bytes] | None = body
        if body is not None and meanwhile is not None:
            # The length is told, so battd has the whole request before this iterator ends.
            headers["content-length"] = str(len(body))
            content = _then(body, meanwhile)
        try:
            answer = self._http.request(
                method,
                path,
                params=query,
                content=content,
                headers=headers,
                timeout=self._timeout_s + wait_s,
            )
        except httpx.TransportError as error:
            self._reached = False
            raise Unreachable(_why_lost(self.socket, error)) from error
        if answer.is_success:
            return answer
        raise _refusal(answer)

    def _reach(self) -> None:
        """Try the socket itself, at first and after every loss.

        The kernel's own answer says why nobody is there, and httpcore leaks the socket of a connection that is refused.
        """
        if self._reached:
            return
        try:
            with socket_module.socket(socket_module.AF_UNIX, socket_module.SOCK_STREAM) as probe:
                probe.settimeout(self._timeout_s)
                probe.connect(str(self.socket))
        except OSError as error:
            raise Unreachable(_why_nobody(self.socket, error)) from error
        self._reached = True

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise Refused(f"battd's answer is not JSON: {answer.text[:200]!r}") from error

    def _shape(self, shape: type[_Shape], answer: httpx.Response) -> _Shape:
        try:
            return TypeAdapter(shape).validate_python(self._json(answer))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Refused(
                f"battd's answer is not understood ({where}: {first['msg']}); see `battctl version` for the versions"
            ) from error


def _path(*parts: str) -> str:
    """A path whose first part is fixed and whose others are escaped."""
    return "/".join((parts[0], *(quote(part, safe="") for part in parts[1:])))


def _then(body: bytes, act: Callable[[], None]) -> Iterator[bytes]:
    """A body, and what is done once all of it has been sent."""
    yield body
    act()


def _refusal(answer: httpx.Response) -> BattError:
    """The exception that an error answer stands for."""
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        kind: type[BattError] = NotFound if answer.status_code == 404 else Refused
        return kind(f"battd answered {answer.status_code}: {answer.text[:300].strip() or answer.reason_phrase}")
    return _kinds().get(problem.error, Refused)(problem.message)


def _kinds() -> dict[str, type[BattError]]:
    """Exceptions by their word; those that are not made of one sentence never cross the wire."""
    found: dict[str, type[BattError]] = {}
    todo: list[type[BattError]] = [BattError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__init__ is BattError.__init__:
            found[kind.code] = kind
    return found


def _why_lost(socket: Path, error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"battd at {socket} did not answer in time; `battctl doctor` looks at what may hold it"
    return f"battd at {socket} closed the connection before it had answered ({error or type(error).__name__})"


def _why_nobody(socket: Path, error: OSError) -> str:
    start = f"battd --state-dir {socket.parent}" if socket.name == SOCKET_NAME else f"battd --socket {socket}"
    hint = f"start it with `{start}`, or name its socket with --socket or BATT_SOCKET"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"no battd: {socket} does not exist; {hint}"
        case errno.EACCES | errno.EPERM:
            return f"{socket} may not be used by this user; ask for the socket's group, or run a battd of your own"
        case errno.ECONNREFUSED:
            if socket.is_socket():
                return f"no battd listens on {socket} any more; {hint}"
            return f"no battd: {socket} is not a socket; {hint}"
        case None:  # Python's own complaint
            return f"{socket} is too long for a unix socket (107 bytes); give battd and battctl a shorter --socket"
        case _:
            return f"battd at {socket} takes no connection: {error.strerror or error}"
