"""The writer's thread: those that wait together share a commit, and what fails harms nobody else."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from batt_supervisor.core.lifecycle import State
from batt_supervisor.errors import Refused, StoreUnavailable
from batt_supervisor.store.operations import Operations
from batt_supervisor.store.writer import GROUP_MAX

GENEROUS_S = 30.0


def note(text: str) -> Any:
    """An operation that leaves a run behind."""
    return lambda tx: tx.db.execute(
        "INSERT INTO runs (name, cwd, env, created_at_ms) VALUES (?, '/', '{}', 0) RETURNING id", (text,)
    ).fetchone()[0]


def names(store: Any) -> list[str]:
    reader = store.reader()
    try:
        return sorted(row.name for row in reader.runs(100_000))
    finally:
        reader.close()


def refuse(tx: Operations) -> None:
    note("must not stay")(tx)
    raise Refused("not today")


def break_a_rule(tx: Operations) -> None:
    note("must not stay")(tx)
    tx.db.execute("INSERT INTO tasks (id) VALUES (1)")


def test_a_write_is_on_disk_when_its_future_resolves(writing: Any) -> None:
    writing.start()
    for number in range(20):
        writing.writer.submit(note(f"n{number:02}")).result(GENEROUS_S)
        assert len(names(writing.store)) == number + 1


def test_operations_are_carried_out_in_order(writing: Any) -> None:
    futures = [writing.writer.submit(note(str(number))) for number in range(1000)]
    writing.start()
    ids = [future.result(GENEROUS_S) for future in futures]
    assert ids == sorted(ids)


def test_those_that_wait_together_share_a_commit(writing: Any) -> None:
    commits: list[str] = []
    writing.store._db.set_trace_callback(lambda sql: commits.append(sql) if sql.startswith("COMMIT") else None)
    futures = [writing.writer.submit(note(str(number))) for number in range(100)]
    writing.start()
    wait(futures, GENEROUS_S)
    assert 1 <= len(commits) < 50


def test_a_group_has_a_bound(writing: Any) -> None:
    sizes: list[int] = []
    writing.writer.on_commit = lambda runs: sizes.append(len(runs))

    def touch(run_id: int) -> Any:
        return lambda tx: tx.touched.add(run_id)

    futures = [writing.writer.submit(touch(number)) for number in range(GROUP_MAX * 2)]
    writing.start()
    wait(futures, GENEROUS_S)
    assert sum(sizes) == GROUP_MAX * 2
    assert max(sizes) <= GROUP_MAX


def test_a_batch_is_written_as_one(writing: Any) -> None:
    futures: list[Future[Any]] = [Future() for _ in range(5)]
    writing.writer.submit_all([(note(str(number)), future) for number, future in enumerate(futures)])
    writing.start()
    wait(futures, GENEROUS_S)
    assert names(writing.store) == list("01234")
    assert len(writing.committed) == 1


@pytest.mark.parametrize("bad", [refuse, break_a_rule])
def test_an_operation_that_fails_undoes_its_own_work_and_no_other(writing: Any, bad: Any) -> None:
    before, failing, after = (writing.writer.submit(one) for one in (note("before"), bad, note("after")))
    writing.start()
    before.result(GENEROUS_S)
    after.result(GENEROUS_S)
    with pytest.raises(Refused if bad is refuse else StoreUnavailable):
        failing.result(GENEROUS_S)
    assert names(writing.store) == ["after", "before"]


def test_the_counts_of_an_operation_that_fails_are_forgotten(writing: Any, make_desk: Any) -> None:
    created = writing.writer.submit(lambda tx: tx.create_run(make_desk.new()))
    writing.start()
    run_id = created.result(GENEROUS_S).id

    def half(tx: Operations) -> None:
        tx.add_tasks(run_id, 0, make_desk.chunk(5))
        raise Refused("after all")

    futures = [
        writing.writer.submit(half),
        writing.writer.submit(lambda tx: tx.add_tasks(run_id, 0, make_desk.chunk(2))),
    ]
    wait(futures, GENEROUS_S)
    reader = writing.store.reader()
    assert [(tally.state, tally.count) for tally in reader.tallies(run_id)] == [(State.QUEUED, 2)]
    reader.close()


def test_whoever_listens_is_told_of_the_runs_that_moved_before_the_caller(writing: Any, make_desk: Any) -> None:
    told: list[set[int]] = []
    order: list[str] = []

    def committed(runs: set[int]) -> None:
        told.append(runs)
        order.append("told")

    writing.writer.on_commit = committed
    created = writing.writer.submit(lambda tx: tx.create_run(make_desk.new()))
    writing.start()
    run_id = created.result(GENEROUS_S).id
    added = writing.writer.submit(lambda tx: tx.add_tasks(run_id, 0, make_desk.chunk(2)))
    added.add_done_callback(lambda future: order.append("answered"))
    added.result(GENEROUS_S)
    writing.wait_until(lambda: "answered" in order)
    assert {run_id} in told
    assert order.index("answered") > 0
    assert order[order.index("answered") - 1] == "told"


def test_many_threads_can_submit_at_once(writing: Any) -> None:
    writing.start()
    futures: list[Future[Any]] = []

    def submit_some(part: int) -> None:
        for number in range(50):
            futures.append(writing.writer.submit(refuse if number % 10 == 0 else note(f"{part}-{number}")))

    threads = [Thread(target=submit_some, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wait(futures, GENEROUS_S).not_done
    assert len(names(writing.store)) == 8 * 45


def test_what_was_queued_before_a_stop_is_written(writing: Any) -> None:
    futures = [writing.writer.submit(note(str(number))) for number in range(GROUP_MAX + 50)]
    writing.writer.stop()
    writing.start()
    assert not wait(futures, GENEROUS_S).not_done
    writing.wait_until(lambda: not writing._thread.is_alive())
    assert not writing._thread.is_alive()


def test_the_writer_shows_that_it_lives_while_it_has_nothing_to_do(writing: Any) -> None:
    writing.start()
    first = writing.writer.beat_s
    writing.wait_until(lambda: writing.writer.beat_s > first + 0.5)
    assert writing.writer.beat_s > first


# What must not end the writer, and with it battd


def test_a_caller_that_goes_away_harms_nobody(writing: Any) -> None:
    gone, stays = writing.writer.submit(note("gone")), writing.writer.submit(note("stays"))
    gone.cancel()
    writing.start()
    writing.wait_until(stays.done)
    assert not writing.died()
    assert stays.done()


@pytest.mark.parametrize(
    "bad",
    [
        lambda tx: 1 // 0,
        lambda tx: tx.seal(99),
        lambda tx: tx.stop_task(99),
        note("a name that is no UTF-8: \udcff"),
        lambda tx: tx.db.execute("SELECT ?", (10**30,)),
    ],
    ids=["defect", "seal of a run that is gone", "cancel of a task that is gone", "surrogate", "large number"],
)
def test_an_operation_with_an_unforeseen_error_fails_alone(writing: Any, bad: Any) -> None:
    failing, after = writing.writer.submit(bad), writing.writer.submit(note("after"))
    writing.start()
    writing.wait_until(lambda: failing.done() and after.done())
    assert not writing.died()
    assert failing.exception(0) is not None
    assert names(writing.store) == ["after"]


def test_what_comes_after_a_stop_is_refused(writing: Any) -> None:
    writing.start()
    writing.writer.stop()
    writing.wait_until(lambda: not writing._thread.is_alive())
    late = writing.writer.submit(note("late"))
    assert isinstance(late.exception(0.2), StoreUnavailable)


# Disk trouble


def test_a_database_that_somebody_else_holds_is_unavailable_and_then_works_again(writing: Any) -> None:
    writing.store._db.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(writing.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    futures = [writing.writer.submit(note(str(number))) for number in range(3)]
    writing.start()
    # The first may have been alone in its group; the others are of a later one.
    for future in futures:
        with pytest.raises(StoreUnavailable, match="database is locked"):
            future.result(GENEROUS_S)
    other.execute("ROLLBACK")
    other.close()
    assert writing.writer.submit(note("again")).result(GENEROUS_S)


def test_an_error_at_the_commit_is_told_to_every_caller_and_the_next_write_works(writing: Any) -> None:
    """A deferred constraint fails at COMMIT and nowhere before, like a disk that is full when the log is synced."""
    db = writing.store._db
    db.execute("CREATE TABLE late (id INTEGER REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED) STRICT")
    futures = [writing.writer.submit(note("a"))]
    futures += [writing.writer.submit(lambda tx: tx.db.execute("INSERT INTO late VALUES (999)"))]
    futures += [writing.writer.submit(note("b"))]
    writing.start()
    for future in futures:
        with pytest.raises(StoreUnavailable, match="FOREIGN KEY"):
            future.result(GENEROUS_S)
    assert not db.in_transaction
    assert names(writing.store) == []
    assert writing.committed == []
    writing.writer.submit(note("again")).result(GENEROUS_S)
    assert names(writing.store) == ["again"]


def fill(tx: Operations, size: int) -> None:
    tx.db.execute(
        "INSERT INTO runs (name, cwd, env, created_at_ms) VALUES (hex(zeroblob(?)), '/', '{}', 0)", (size // 2,)
    )


def test_a_full_database_refuses_and_works_again_when_there_is_room(writing: Any) -> None:
    db = writing.store._db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 20}")
    futures = [
        writing.writer.submit(note("small")),
        writing.writer.submit(lambda tx: fill(tx, 1 << 20)),
        writing.writer.submit(note("neighbour")),
    ]
    writing.start()
    assert not wait(futures, GENEROUS_S).not_done
    with pytest.raises(StoreUnavailable):
        futures[1].result(0)
    for future in (futures[0], futures[2]):  # either written, or told that they were not
        assert future.exception(0) is None or isinstance(future.exception(0), StoreUnavailable)
    kept = names(writing.store)
    assert ("small" in kept) == (futures[0].exception(0) is None)
    assert ("neighbour" in kept) == (futures[2].exception(0) is None)
    db.execute("PRAGMA max_page_count = 1000000")
    writing.writer.submit(lambda tx: fill(tx, 1 << 20)).result(GENEROUS_S)


def test_a_full_database_is_told_by_its_own_name(writing: Any) -> None:
    (pages,) = writing.store._db.execute("PRAGMA page_count").fetchone()
    writing.store._db.execute(f"PRAGMA max_page_count = {pages + 20}")
    future = writing.writer.submit(lambda tx: fill(tx, 1 << 20))
    writing.start()
    with pytest.raises(StoreUnavailable, match=r"no room for the database, though .* are free on .*: a quota"):
        future.result(GENEROUS_S)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB; needs root and the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_refuses_keeps_what_was_acknowledged_and_works_again(small_disk: Path, make_desk: Any) -> None:
    from batt_supervisor.store import Store

    store = Store(small_disk / "queue.db")
    stopped = Event()

    def live() -> None:
        store.writer.run()
        stopped.set()

    Thread(target=live, daemon=True).start()
    acknowledged: list[str] = []
    refused: list[BaseException] = []
    for number in range(200):
        name = f"{number:04}" + "x" * 20_000
        error = store.writer.submit(note(name)).exception(GENEROUS_S)
        if error is None:
            acknowledged.append(name)
        else:
            refused.append(error)
            if len(refused) > 3:
                break
    assert acknowledged
    assert refused, "the disk must get full"
    assert {type(error) for error in refused} == {StoreUnavailable}
    assert names(store) == acknowledged, "nothing is lost, and nothing is there that was refused"
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    store.writer.submit(note("z")).result(GENEROUS_S)
    assert names(store) == [*acknowledged, "z"]
    store.writer.stop()
    assert stopped.wait(GENEROUS_S)
    store.close()


def test_it_outlives_a_removed_file_when_nobody_waits_for_the_write(writing: Any) -> None:
    gone: Future[Any] = Future()
    gone.cancel()
    file = Path(writing.store.path)
    file.rename(file.with_name("away"))
    writing.writer.submit_all([(note("of nobody"), gone)])
    writing.start()
    with pytest.raises(StoreUnavailable, match="is not there"):
        writing.writer.submit(note("refused")).result(GENEROUS_S)
    file.with_name("away").rename(file)
    writing.writer.submit(note("and on")).result(GENEROUS_S)
    assert names(writing.store) == ["and on"]


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_nothing_is_acknowledged_that_went_into_a_removed_file(writing: Any, end: str) -> None:
    writing.start()
    writing.writer.submit(note("kept")).result(GENEROUS_S)
    file = Path(f"{writing.store.path}{end}")
    away = file.with_name("away")
    file.rename(away)
    with pytest.raises(StoreUnavailable, match=f"{file.name} is not there any more; put it back"):
        writing.writer.submit(note("refused")).result(GENEROUS_S)
    file.touch()
    with pytest.raises(StoreUnavailable, match=f"{file.name} is another file"):
        writing.writer.submit(note("refused")).result(GENEROUS_S)
    away.rename(file)
    writing.writer.submit(note("and on")).result(GENEROUS_S)
    assert names(writing.store) == ["and on", "kept"]
