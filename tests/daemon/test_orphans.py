"""Result files that nothing needs go, a few at a time; what something needs stays, whoever reads it meanwhile."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from batt_supervisor.daemon.orphans import AGAIN_S, AT_ONCE, FIRST, PAUSE_S, Orphans
from batt_supervisor.errors import StoreUnavailable


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def written(results: Path, *names: str) -> set[str]:
    for name in names:
        (results / name).write_text("1")
    return set(names)


def names(results: Path) -> set[str]:
    return {path.name for path in results.iterdir()}


def only(*kept: str) -> Callable[[Sequence[str]], set[str]]:
    return lambda asked: {name for name in asked if name in kept}


def test_what_nothing_needs_is_gone_before_battd_serves(results: Path) -> None:
    written(results, "1-1.json", "2-1.json", "3-1.json.tmp", "modules-4-1.json", "request-0.json")
    Orphans(results.parent, only("2-1.json")).begin(0.0)
    assert names(results) == {"2-1.json"}


def test_of_very_many_only_the_first_are_looked_at_then_and_the_rest_while_battd_serves(results: Path) -> None:
    written(results, *(f"{number}-1.json" for number in range(FIRST + 2 * AT_ONCE)), "request-0.json")
    orphans = Orphans(results.parent, only())
    orphans.begin(0.0)
    assert len(names(results)) in (2 * AT_ONCE, 2 * AT_ONCE + 1)  # the request may be among the first
    written(results, "request-0.json")  # and is a worker's now
    now_s = 0.0
    for _ in range(4):
        before = len(names(results))
        orphans.tick(now_s)
        assert len(names(results)) == before, "it takes pauses"
        now_s += PAUSE_S
        orphans.tick(now_s)
    assert names(results) == {"request-0.json"}


def test_files_stay_for_as_long_as_a_backup_reads_them(results: Path) -> None:
    kept = written(results, "1-1.json", "2-1.json")
    orphans = Orphans(results.parent, only())
    with open(results.parent / "files.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        orphans.begin(0.0)
        orphans.tick(AGAIN_S)
        assert names(results) == kept
    orphans.tick(2 * AGAIN_S)
    assert names(results) == set()


def test_while_the_store_cannot_be_read_nothing_goes(results: Path) -> None:
    kept = written(results, "1-1.json", "2-1.json")
    readable = False

    def needed(asked: Sequence[str]) -> set[str]:
        if not readable:
            raise StoreUnavailable("it cannot be read")
        return {"2-1.json"}

    orphans = Orphans(results.parent, needed)
    orphans.begin(0.0)
    assert names(results) == kept
    readable = True
    orphans.tick(AGAIN_S / 2)
    assert names(results) == kept
    orphans.tick(AGAIN_S)
    assert names(results) == {"2-1.json"}


def test_once_all_were_looked_at_nothing_is_looked_at_again(results: Path) -> None:
    orphans = Orphans(results.parent, only())
    orphans.begin(0.0)
    orphans.tick(PAUSE_S)
    written(results, "1-1.json")  # of an attempt that is running
    for round_ in range(2, 5):
        orphans.tick(round_ * AGAIN_S)
    assert names(results) == {"1-1.json"}
