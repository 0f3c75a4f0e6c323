"""What battctl does to a state directory itself, whether or not battd serves it: back up, restore, check."""

from __future__ import annotations

import fcntl
import grp
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from batt_supervisor import __version__
from batt_supervisor.config import Settings, load
from batt_supervisor.errors import BackupFailed, BadConfiguration, BadInput, StateDirHeld, StateDirUnusable
from batt_supervisor.paths import RESTORING
from batt_supervisor.store import archive, backup, check
from batt_supervisor.store.check import Report
from batt_supervisor.store.place import FILES_LOCK

__all__ = ["Report", "Restored", "back_up", "check_settings", "check_store", "restore"]

LOCK_NAME: Final = "lock"
"""battd holds it for as long as it serves a state directory."""

ORDINARY: Final = frozenset({"lost+found"})
"""What is in an empty directory that is a file system of its own."""

Told = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A state directory that was made from a backup.

    Attributes:
        faults: What is wrong with it, as sentences; it was so when the backup was made.
    """

    manifest: archive.Manifest
    faults: list[str]


def back_up(state_dir: Path, target: Path, *, force: bool, told: Told) -> archive.Manifest:
    """Write one moment of a state directory into one file.

    Raises:
        BadInput: The file is there already, or its name ends in nothing known; or the state directory has no database.
        StoreDamaged: The database is no sound one.
        StoreUnavailable: It cannot be read.
        SchemaTooNew: A later version has written it.
        BackupFailed: The backup cannot be written. Nothing of it is left, and a file that was there is as it was.
    """
    mode = archive.mode_of(target)
    _refuse_existing(target, force)
    database = _database(state_dir)
    with _scratch(target) as scratch, _kept(state_dir):
        found = backup.copy(database, scratch / archive.DATABASE, lambda done, of: told("database", done, of))
        manifest, members = _gather(found, state_dir, scratch / archive.DATABASE)
        with _to_be_written(target):
            with (scratch / "backup").open("xb") as out:
                os.fchmod(out.fileno(), 0o600)  # it holds what tasks were given, and what they wrote
                archive.write(out, mode, manifest, members, lambda done, of: told("files", done, of))
                out.flush()
                os.fsync(out.fileno())
            _refuse_existing(target, force)
            (scratch / "backup").replace(target)
            archive.sync_folder(target.parent)
    return manifest


def restore(path: Path, state_dir: Path, *, told: Told) -> Restored:
    """Make a state directory from a backup, or nothing.

    Raises:
        BadInput: The directory is not empty; or the file is no backup, or torn.
        SchemaTooNew: A later version has written it.
        StateDirHeld: A battd has begun to serve the directory just then.
        BackupFailed: It cannot be written there.
    """
    with _new(state_dir), tempfile.TemporaryDirectory(prefix=RESTORING, dir=state_dir) as folder:
        staged = Path(folder)
        manifest = archive.unpack(path, staged, lambda done, of: told("files", done, of))
        report = check.check(staged / archive.DATABASE, staged / "results", staged / "logs")
        damage = [fault.told for fault in report.faults if fault.part == "database"]
        if damage:
            raise BadInput(f"{path} holds a damaged database: {damage[0]}")
        backup.leap(staged / archive.DATABASE)
        with _to_be_written(state_dir):
            _give(staged, state_dir)
            # The database comes last: battd serves no directory that it is still unpacked in.
            for name in (*archive.FOLDERS, archive.DATABASE):
                (staged / name).rename(state_dir / name)
            archive.sync_folder(state_dir)
    return Restored(manifest, [fault.told for fault in report.faults])


def check_store(state_dir: Path) -> Report:
    """Look a state directory over, and change nothing.

    Raises:
        BadInput: It has no database.
        StoreUnavailable: The database cannot be opened, though it may be sound.
        SchemaTooNew: A later version has written it.
        StateDirUnusable: Its files cannot be looked at.
    """
    database = _database(state_dir)
    with _kept(state_dir):
        try:
            return check.check(database, state_dir / "results", state_dir / "logs")
        except OSError as error:
            raise StateDirUnusable(f"the files of {state_dir} cannot be looked at: {error.strerror}") from error


def check_settings(environ: Mapping[str, str], config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings that battd would start with.

    Raises:
        BadConfiguration: It would not start with them, on any machine that has its groups.
    """
    settings = load(environ, config, flags)
    if settings.socket_group:
        try:
            grp.getgrnam(settings.socket_group)
        except KeyError as error:
            raise BadConfiguration(f"socket_group: there is no group {settings.socket_group!r}") from error
    return settings


# A backup's parts


def _gather(found: backup.Contents, state_dir: Path, copied: Path) -> tuple[archive.Manifest, list[archive.Member]]:
    """What goes into an archive, in order; files that are named and are not there are told in its manifest."""
    missing: list[str] = []
    wanted = [(f"results/{name}", -1) for name in sorted(found.results)]
    wanted += [(f"logs/{name}", end) for name, end in sorted(found.logs.items())]
    files: dict[str, list[archive.Member]] = {folder: [] for folder in archive.FOLDERS}
    for name, end in wanted:
        path = state_dir / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            missing.append(name)
            continue
        # What a log has got since is of attempts that the copied database does not know the end of.
        files[name.partition("/")[0]].append(archive.Member(name, path, size if end < 0 else min(size, end)))
    sums = {folder: sum(member.size_bytes for member in members) for folder, members in files.items()}
    size = copied.stat().st_size
    manifest = archive.Manifest(
        version=__version__,
        schema=found.schema,
        made_at_ms=time.time_ns() // 1_000_000,
        database_bytes=size,
        runs=found.runs,
        tasks=found.tasks,
        results=len(files["results"]),
        results_bytes=sums["results"],
        logs=len(files["logs"]),
        logs_bytes=sums["logs"],
        missing=missing,
    )
    return manifest, [archive.Member(archive.DATABASE, copied, size), *files["results"], *files["logs"]]


def _refuse_existing(target: Path, force: bool) -> None:
    if target.is_dir():
        raise BadInput(f"{target} is a directory; name the file to write")
    if not force and os.path.lexists(target):
        raise BadInput(f"{target} exists; give --force to have it replaced")


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder beside the file to be written, on its file system; it goes with all that is in it."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise BackupFailed(f"{target} cannot be written: {error.strerror}") from error
    with folder as name:
        yield Path(name)


@contextmanager
def _to_be_written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = f" ({error.filename})" if error.filename and Path(error.filename) != target else ""
        raise BackupFailed(f"{target} cannot be written: {error.strerror or error}{name}") from error


# The state directory


def _database(state_dir: Path) -> Path:
    try:
        if (state_dir / archive.DATABASE).exists():
            return state_dir / archive.DATABASE
    except OSError as error:
        raise StateDirUnusable(f"the state directory {state_dir} cannot be read: {error.strerror}") from error
    raise BadInput(f"{state_dir} has no {archive.DATABASE}: name battd's state directory with --state-dir")


@contextmanager
def _kept(state_dir: Path) -> Iterator[None]:
    """For as long as the block lasts, battd removes no file that a row has named."""
    path = state_dir / FILES_LOCK
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if os.access(state_dir, os.W_OK):
            raise StateDirUnusable(f"{path} cannot be opened: {error.strerror}") from error
        fd = -1  # on a file system that cannot be written, nothing is removed either
    try:
        if fd >= 0:
            _own(fd, state_dir)
            fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _own(fd: int, state_dir: Path) -> None:
    """Let a file that root has made in another user's state directory be that user's."""
    owner = state_dir.stat()
    if os.geteuid() == 0 and os.fstat(fd).st_uid != owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)


@contextmanager
def _new(state_dir: Path) -> Iterator[None]:
    """An empty state directory that no battd can begin to serve; after an error it is empty again, or not there."""
    made = not state_dir.exists()
    with _to_be_written(state_dir):
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if {entry.name for entry in state_dir.iterdir()} - ORDINARY:
            raise BadInput(
                f"{state_dir} is not empty: a backup is restored into a directory of its own (--state-dir); "
                "move the old one away first"
            )
        lock = (state_dir / LOCK_NAME).open("x", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # whatever is in it from now on is not ours
            raise StateDirHeld(f"a battd has just begun to serve {state_dir}") from error
        try:
            _own(lock.fileno(), state_dir)
            state_dir.chmod(0o700)
            yield
        except BaseException:
            _empty(state_dir)
            if made:
                state_dir.rmdir()
            raise


def _empty(state_dir: Path) -> None:
    """Remove what a restore has put there."""
    (state_dir / archive.DATABASE).unlink(missing_ok=True)
    for name in archive.FOLDERS:
        shutil.rmtree(state_dir / name, ignore_errors=True)
    (state_dir / LOCK_NAME).unlink(missing_ok=True)


def _give(staged: Path, state_dir: Path) -> None:
    """Let what root has unpacked in another user's directory be that user's."""
    owner = state_dir.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for folder, folders, files in os.walk(staged):
            for name in (*folders, *files):
                os.chown(Path(folder, name), owner.st_uid, owner.st_gid)
