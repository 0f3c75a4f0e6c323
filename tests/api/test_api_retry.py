"""A retry of a whole run goes in steps; what one of them has queued again is known, whatever becomes of the next."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import Event
from batt_supervisor.core.model import Claim, Ending, Limits, Outcome, Room, Tries, Work
from batt_supervisor.core.retry import Verdict
from batt_supervisor.errors import StoreUnavailable
from batt_supervisor.store import Store, moves, values
from batt_supervisor.store.operations import Operations

TASKS = (1, 2, 3)


def test_what_is_queued_again_is_told_though_the_next_step_fails(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "queue.db")
    writer = Thread(target=store.writer.run)
    writer.start()

    def write(operation: Any) -> Any:
        return store.writer.submit(operation).result(30)

    work = Work(Room("/"), Limits(timeout_s=60.0, max_attempts=1, retry_delay_s=1.0), function="m:f")
    new = values.NewRun("run", None, "/", {}, None, (values.NewStage("only", work),))
    run = write(lambda tx: tx.create_run(new)).id
    write(lambda tx: tx.add_tasks(run, 0, [values.NewTask(0, "[]") for _ in TASKS]))
    write(lambda tx: tx.seal(run))
    write(lambda tx: tx.claim([values.Wanted(task, 0, None) for task in TASKS]))
    failed = Ending(Outcome.EXCEPTION), Verdict(Event.FAIL, Tries())
    write(lambda tx: tx.settle([values.Settlement(Claim(task, 1), *failed) for task in TASKS]))

    changed: list[int] = []
    ask = serve(store, run_changed=changed.append)
    monkeypatch.setattr(moves, "CHUNK", 1)
    steps = iter([Operations.retry_some])

    def second_fails(tx: Operations, *given: Any) -> int:
        step = next(steps, None)
        if step is None:
            raise StoreUnavailable("disk full")
        return step(tx, *given)

    monkeypatch.setattr(Operations, "retry_some", second_fails)
    try:
        answer = ask("POST", f"/v1/runs/r{run}/retry")
        assert answer.status_code == 503
        with closing(store.reader()) as reader:
            assert len(reader.heads(run, 9)) == 1
        assert changed == [run]
    finally:
        store.writer.stop()
        writer.join(30)
