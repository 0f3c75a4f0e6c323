"""Whatever SQLite says, whoever looks after the machine is told what to look at."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batt_supervisor.errors import StoreDamaged, StoreUnavailable
from batt_supervisor.store import trouble
from batt_supervisor.store.schema import connect

WRITE = "CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (hex(zeroblob(50000)));"


def error_of(act: Callable[[], object]) -> sqlite3.Error:
    with pytest.raises(sqlite3.Error) as found:
        act()
    return found.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a table in it."""
    with closing(connect(tmp_path / "queue.db")) as db:
        db.executescript(WRITE)
    return tmp_path / "queue.db"


def test_a_database_that_may_grow_no_more(path: Path) -> None:
    with closing(connect(path)) as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        said = trouble.told(error_of(lambda: db.executescript(WRITE)), path)
    assert type(said) is StoreUnavailable
    assert str(said).startswith("no room for the database, though ")
    assert str(said).endswith(f"free on {path.parent}: a quota, perhaps")


def test_a_file_that_may_not_be_written(path: Path) -> None:
    with closing(connect(path, readonly=True)) as db:
        said = trouble.told(error_of(lambda: db.execute("INSERT INTO t VALUES (1)")), path)
    assert str(said) == f"{path} may not be written (attempt to write a readonly database)"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none" / "queue.db"
    said = trouble.told(error_of(lambda: connect(path)), path)
    assert str(said) == f"{path} cannot be opened (unable to open database file)"


def test_a_lock_of_another_process_is_told_with_its_pid_and_name(path: Path) -> None:
    hold = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute('BEGIN IMMEDIATE')"
    words = [sys.executable, "-c", f"{hold}; print(flush=True); sys.stdin.read()", str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other, closing(connect(path)) as db:
        assert other.stdout is not None
        other.stdout.readline()
        name = Path(f"/proc/{other.pid}/comm").read_text().strip()
        db.execute("PRAGMA busy_timeout = 0")
        said = trouble.told(error_of(lambda: db.execute("BEGIN IMMEDIATE")), path)
        other.communicate()
    assert str(said) == f"the database is locked by another process: pid {other.pid} ({name})"


def test_a_lock_that_nobody_is_seen_to_have(path: Path) -> None:
    with closing(connect(path)) as db, closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        db.execute("PRAGMA busy_timeout = 0")
        error = error_of(lambda: db.execute("BEGIN IMMEDIATE"))
        assert "locked by battd itself" in str(trouble.told(error, path))
        other.execute("ROLLBACK")
    assert str(trouble.told(error, path)) == "the database is locked by another process"


def test_an_io_error_names_the_limit_to_the_size_of_files(path: Path) -> None:
    script = (
        "import resource, sqlite3, sys; from pathlib import Path\n"
        "from batt_supervisor.store import schema, trouble\n"
        "path = Path(sys.argv[1]); db = schema.connect(path)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try:\n    db.executescript(sys.argv[2])\n"
        "except sqlite3.Error as error:\n    print(trouble.told(error, path))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path), WRITE], capture_output=True, text=True, check=True)
    limit = "a file may have 0 B at most (RLIMIT_FSIZE, ulimit -f)"
    assert done.stdout.strip() == f"I/O error while writing {path}: {limit}"


def test_a_damaged_page_is_an_error_of_its_own_that_names_the_page_of_the_manual(path: Path) -> None:
    with closing(connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema").fetchone()
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 4096, (page - 1) * 4096)
    with closing(connect(path)) as db:
        said = trouble.told(error_of(lambda: db.execute("SELECT * FROM t").fetchall()), path)
    assert type(said) is StoreDamaged
    assert str(said).startswith(f"the database {path} is damaged: ")
    assert str(said).endswith("; see docs/operations.md")


def test_a_text_that_is_none_is_damage(path: Path) -> None:
    with closing(connect(path)) as db:
        error = error_of(lambda: db.execute("SELECT CAST(x'ff' AS TEXT)").fetchone())
    assert type(trouble.told(error, path)) is StoreDamaged


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A database on a file system that takes no writes; needs root and the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with closing(connect(place / "queue.db")) as db:
            db.executescript(WRITE)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place / "queue.db"
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_file_system_that_takes_no_writes(read_only: Path) -> None:
    def write() -> None:
        with closing(connect(read_only)) as db:
            db.executescript(WRITE)

    assert str(trouble.told(error_of(write), read_only)) == f"read-only file system: {read_only.parent}"


@pytest.mark.parametrize(
    ("size_bytes", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (12_288, "12 kB"),
        (999_400, "999 kB"),
        (1_500_000, "1.5 MB"),
        (78_000_000_000, "78 GB"),
        (2_500_000_000_000, "2.5 TB"),
    ],
)
def test_amounts_are_told_as_disks_are_sold(size_bytes: int, told: str) -> None:
    assert trouble._amount(size_bytes) == told
