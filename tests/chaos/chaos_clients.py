"""Clients of a chaos run: they submit, ask, cancel and retry, and ask again when an answer was lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import chaos_tasks
from chaos_plan import KINDS, Plan, Run

from batt_supervisor.client import Client
from batt_supervisor.core.lifecycle import OPEN, State
from batt_supervisor.errors import Refused, Unreachable
from batt_supervisor.wire import RunInfo, RunSpec, StageSpec, TaskSpec

T = TypeVar("T")

MODULE: Final = chaos_tasks.__name__

LOOK_S: Final = 0.1

ON_SCHEDULE: Final = 0.6
"""How much of a run has ended when its client submits the next one."""


@dataclass
class Promise:
    """What a client was told of a run.

    Attributes:
        id: As it was acknowledged; empty until then.
        lost: Answers that never came, and those of a battd that was going down.
        cancel_asked: A cancel was sent.
        cancelled_at_ms: Wall time at which it had been acknowledged.
        retried: Attempts that each failed task had had when its retry was sent, by the task's id.
        retry_acknowledged: How many tasks the last answer to it named; None until then.
    """

    run: Run
    id: str = ""
    lost: int = 0
    cancel_asked: bool = False
    cancelled_at_ms: int | None = None
    retried: dict[str, int] = field(default_factory=dict)
    retry_acknowledged: int | None = None
    settled: int = 0


class Clients:
    """All of them, each in a thread of its own.

    Args:
        limit_s: How long all of it may take.

    Attributes:
        complaints: What should not have been.
    """

    def __init__(self, plan: Plan, socket: Path, folder: Path, limit_s: float) -> None:
        self._plan, self._socket, self._folder = plan, socket, folder
        self._until_s = time.monotonic() + limit_s
        self.promises = {run.name: Promise(run) for run in plan.runs}
        self.complaints: list[str] = []
        self._threads = [
            threading.Thread(target=self._live, args=(number,), name=f"client {number}", daemon=True)
            for number in sorted({run.client for run in plan.runs})
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def settled(self) -> int:
        """How many tasks are known to have ended."""
        return sum(promise.settled for promise in self.promises.values())

    def _live(self, number: int) -> None:
        try:
            with Client(self._socket) as client:
                Voice(client, self).work(self._plan.of_client(number))
        except Exception as error:
            self.complaints.append(f"client {number} ended by {type(error).__name__}: {error}")

    def complain(self, sentence: str) -> None:
        self.complaints.append(sentence)

    def folder_of(self, run: Run) -> Path:
        """Where the run's tasks write down what they do."""
        return self._folder / run.name

    def time_left(self, what: str) -> None:
        """Raises TimeoutError when there is none."""
        if time.monotonic() > self._until_s:
            raise TimeoutError(f"the time is up, and not seen: {what}")


class Voice:
    """One client at work."""

    def __init__(self, client: Client, clients: Clients) -> None:
        self._client, self._clients = client, clients

    def work(self, runs: list[Run]) -> None:
        """Submit runs one after another, and see all of them to their end."""
        for run in runs:
            promise = self._clients.promises[run.name]
            self._submit(promise)
            if run.cancel_at is not None:
                self._until(promise, run.cancel_at)
                self._cancel(promise)
            self._until(promise, ON_SCHEDULE)
        for run in runs:
            promise = self._clients.promises[run.name]
            self._until_ended(promise)
            if run.retry:
                self._retry(promise)
                self._until_ended(promise)

    def _submit(self, promise: Promise) -> None:
        run = promise.run
        folder = self._clients.folder_of(run)
        (folder / "locks").mkdir(parents=True)
        kinds = {kind.name: number for number, kind in enumerate(KINDS)}
        spec = RunSpec(
            name=run.name,
            key=f"key of {run.name}",
            cwd=str(Path(__file__).parent),
            stages=tuple(
                StageSpec(
                    name=kind.name,
                    function=f"{MODULE}:{kind.function}",
                    max_attempts=kind.max_attempts,
                    timeout_s=kind.timeout_s,
                )
                for kind in KINDS
            ),
        )
        tasks = [TaskSpec(stage=kinds[task.kind.name], args=[str(folder), task.name, *task.args]) for task in run.tasks]
        created = self._insist(promise, lambda: self._client.submit(spec, iter(tasks)))
        promise.id = created.run
        if created.tasks != len(tasks):
            self._clients.complain(f"{run.name}: {len(tasks)} tasks submitted, {created.tasks} acknowledged")
        if run.again:
            again = self._insist(promise, lambda: self._client.submit(spec, iter(tasks)))
            if (again.run, again.tasks, again.existing) != (promise.id, len(tasks), True):
                self._clients.complain(f"{run.name}: submitted again with its key it was {again}, not {promise.id}")

    def _cancel(self, promise: Promise) -> None:
        promise.cancel_asked = True
        self._insist(promise, lambda: self._client.cancel(promise.id))
        promise.cancelled_at_ms = time.time_ns() // 1_000_000

    def _retry(self, promise: Promise) -> None:
        failed = self._insist(promise, lambda: list(self._client.all_results(promise.id, state=State.FAILED)))
        promise.retried = {task.id: task.attempt for task in failed}
        promise.settled -= len(failed)
        changed = self._insist(promise, lambda: self._client.retry(promise.id, state=State.FAILED))
        promise.retry_acknowledged = changed.tasks

    def _until(self, promise: Promise, fraction: float) -> None:
        """Wait until so much of a run has ended."""
        wanted = fraction * len(promise.run.tasks)
        while self._look(promise).ended_at_ms is None and promise.settled < wanted:
            time.sleep(LOOK_S)

    def _until_ended(self, promise: Promise) -> None:
        while self._look(promise).ended_at_ms is None:
            time.sleep(LOOK_S)

    def _look(self, promise: Promise) -> RunInfo:
        """A run as it stands: nothing of it is ever taken back."""
        info = self._insist(promise, lambda: self._client.run(promise.id))
        settled = sum(count for state, count in info.counts.items() if state not in OPEN)
        if settled < promise.settled:
            self._clients.complain(f"{promise.run.name}: {promise.settled} tasks had ended, and then {settled}")
        if sum(info.counts.values()) != len(promise.run.tasks):
            self._clients.complain(f"{promise.run.name}: {len(promise.run.tasks)} tasks, counted as {info.counts}")
        promise.settled = settled
        return info

    def _insist(self, promise: Promise, question: Callable[[], T]) -> T:
        """Ask until there is an answer.

        Raises:
            BattError: The answer is no.
        """
        while True:
            self._clients.time_left(f"an answer for {promise.run.name}")
            try:
                return question()
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and "going down" not in str(error):
                    raise
                promise.lost += 1
                time.sleep(LOOK_S)
