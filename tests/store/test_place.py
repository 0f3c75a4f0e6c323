"""A database of which something is missing is not opened: SQLite would make it anew, and the rest would be lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from batt_supervisor.errors import StoreMissing, StoreUnavailable
from batt_supervisor.store import Store
from batt_supervisor.store.trouble import may_pass

NAME = "queue.db"


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The files of a battd that was killed, beside its folders."""
    (tmp_path / "at-work").mkdir()
    store = Store(tmp_path / "at-work" / NAME)
    store._db.execute("UPDATE counters SET settled_seq = 7")
    shutil.copytree(tmp_path / "at-work", tmp_path / "state")
    store.close()
    for name in ("results", "logs"):
        (tmp_path / "state" / name).mkdir()
    return tmp_path / "state"


def value(state: Path) -> int:
    store = Store(state / NAME)
    with closing(store.reader()) as reader:
        found: int = reader._db.execute("SELECT settled_seq FROM counters").fetchone()[0]
    store.close()
    return found


def moved(end: str) -> Callable[[Path], None]:
    return lambda state: (state / f"{NAME}{end}").rename(state.parent / f"away{end}")


def emptied(state: Path) -> None:
    shutil.copy(state / NAME, state.parent / "away")
    (state / NAME).write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "end", "told"),
    [
        (moved(""), "", "queue.db is not there, and what belongs to it is: put it back"),
        (emptied, "", "queue.db is not there, and what belongs to it is: put it back"),
        (moved("-wal"), "-wal", "queue.db-wal is not there, though the last battd did not leave in order: put it back"),
    ],
    ids=["database", "emptied", "log"],
)
def test_what_is_missing_is_told_and_nothing_is_made_of_the_rest(
    killed: Path, harm: Callable[[Path], None], end: str, told: str
) -> None:
    harm(killed)
    before = {path.name: path.read_bytes() for path in killed.iterdir() if path.is_file()}
    with pytest.raises(StoreMissing, match=told) as missing:
        Store(killed / NAME)
    assert may_pass(missing.value)
    assert {path.name: path.read_bytes() for path in killed.iterdir() if path.is_file()} == before
    (killed.parent / f"away{end}").rename(killed / f"{NAME}{end}")
    assert value(killed) == 7


@pytest.mark.parametrize("left", ["results/1-1.json", "logs/worker-1-1.log", "files.lock"])
def test_a_database_that_is_gone_after_an_orderly_end_is_missed_by_its_files(killed: Path, left: str) -> None:
    Store(killed / NAME).close()
    (killed / left).touch()
    (killed / NAME).unlink()
    with pytest.raises(StoreMissing, match="to begin anew, remove the whole directory"):
        Store(killed / NAME)
    assert not (killed / NAME).exists()


def test_a_new_directory_and_what_was_left_in_order_or_by_a_kill_are_whole(killed: Path, tmp_path: Path) -> None:
    assert value(killed) == 7
    assert value(killed) == 7, "and after an orderly end"
    (tmp_path / "new" / "results").mkdir(parents=True)
    Store(tmp_path / "new" / NAME).close()


def test_a_folder_that_is_none_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be looked at: Not a directory"):
        Store(tmp_path / "file" / NAME)


def test_no_connection_is_made_while_something_is_away(killed: Path) -> None:
    """It would make an empty log, and hold on to that when the right one is back."""
    store = Store(killed / NAME)
    store.reader().close()
    moved("-wal")(killed)
    with pytest.raises(StoreMissing, match=r"queue\.db-wal is not there any more"):
        store.reader()
    assert not (killed / f"{NAME}-wal").exists()
    (killed.parent / "away-wal").rename(killed / f"{NAME}-wal")
    store.reader().close()
    store.close()
