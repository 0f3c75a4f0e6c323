"""The file that a backup is: one tar of manifest.json, queue.db, results/ and logs/."""

from __future__ import annotations

import ctypes
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Literal

from batt_supervisor.errors import BackupFailed, BadInput, SchemaTooNew
from batt_supervisor.store.schema import migrations

FORMAT: Final = 1

MANIFEST: Final = "manifest.json"
DATABASE: Final = "queue.db"
FOLDERS: Final = ("results", "logs")

ENDS: Final[dict[str, Literal["w", "w:gz"]]] = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}
"""Ends of a backup's name, and how tarfile writes it then."""

PIECE: Final = 2**20


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    Attributes:
        version: Of the battctl that made it; `schema` is the database's.
        made_at_ms: When; the snapshot was taken a moment before.
        tasks: How many are in each state.
        results: How many files, and `results_bytes` what they hold; likewise of the logs.
        missing: Files that the database names, and that were not there any more.
    """

    version: str
    schema: int
    made_at_ms: int
    database_bytes: int
    runs: int
    tasks: dict[str, int]
    results: int = 0
    results_bytes: int = 0
    logs: int = 0
    logs_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Member:
    """A file to be written: its name in the archive, where it is, and how many bytes of it are wanted."""

    name: str
    path: Path
    size_bytes: int


def mode_of(path: Path) -> Literal["w", "w:gz"]:
    """How a backup of this name is written.

    Raises:
        BadInput: Its name has none of the ends that say so.
    """
    for end, mode in ENDS.items():
        if path.name.endswith(end) and path.name != end:
            return mode
    raise BadInput(f"{path}: a backup's name ends in {', '.join(list(ENDS)[:-1])} or {list(ENDS)[-1]}")


def write(
    out: IO[bytes],
    mode: Literal["w", "w:gz"],
    manifest: Manifest,
    members: list[Member],
    told: Callable[[int, int], None],
) -> None:
    """Write an archive.

    Args:
        told: Is told how many files are written, and of how many.

    Raises:
        OSError: A file cannot be read, or is shorter than it was, or the archive cannot be written.
    """
    # Compression level 6: 9 takes twice the time for one percent.
    level: dict[str, Any] = {"compresslevel": 6} if mode == "w:gz" else {}
    with tarfile.open(fileobj=out, mode=mode, **level) as tar:
        text = json.dumps(asdict(manifest), indent=2).encode()
        tar.addfile(_entry(MANIFEST, len(text), manifest.made_at_ms / 1000), io.BytesIO(text))
        for place, member in enumerate(members):
            with member.path.open("rb") as held:
                entry = _entry(member.name, member.size_bytes, os.fstat(held.fileno()).st_mtime)
                tar.addfile(entry, held)
            told(place + 1, len(members))


def _entry(name: str, size_bytes: int, mtime_s: float) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size_bytes, int(mtime_s), 0o600
    return entry


def unpack(path: Path, target: Path, told: Callable[[int, int], None]) -> Manifest:
    """Write what a backup holds into an empty folder, synced; its manifest, which is not written.

    Only plain files of the names that a backup has are taken, whatever the archive says.

    Raises:
        BadInput: It is no backup, or is torn, or holds less than its manifest says.
        SchemaTooNew: A later version has written it.
        BackupFailed: It cannot be written there.
    """
    with _read(path), tarfile.open(path) as tar:
        manifest = _manifest(tar, path)
        total = 1 + manifest.results + manifest.logs
        counts = {DATABASE: 0, **dict.fromkeys(FOLDERS, 0)}
        with _written(target):
            for folder in FOLDERS:
                (target / folder).mkdir(mode=0o700)
        while (member := tar.next()) is not None:
            kind = _kind(member, path)
            held = tar.extractfile(member)
            assert held is not None  # it is a plain file
            _write_file(target / member.name, held, member)
            counts[kind] += 1
            told(sum(counts.values()), total)
    if counts != {DATABASE: 1, "results": manifest.results, "logs": manifest.logs}:
        raise BadInput(
            f"{path} is torn: it holds {counts['results']} results and {counts['logs']} logs of "
            f"{manifest.results} and {manifest.logs}" + ("" if counts[DATABASE] else ", and no database")
        )
    with _written(target):
        _sync_all(target)
    return manifest


def sync_folder(path: Path) -> None:
    """Make the names in a folder outlive a power failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_all(folder: Path) -> None:
    """Sync the file system that a folder is on, at once: 20,000 files took half a minute one by one."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)


def _manifest(tar: tarfile.TarFile, path: Path) -> Manifest:
    first = tar.next()
    held = tar.extractfile(first) if first is not None and first.isfile() and first.name == MANIFEST else None
    if held is None:
        raise BadInput(f"{path} is no backup of battctl's: it does not begin with {MANIFEST}")
    try:
        said = json.loads(held.read())
        if said["format"] > FORMAT:
            raise SchemaTooNew(f"{path} was made by battctl {said['version']}, in a form that this one does not know")
        manifest = Manifest(**said)
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path}: its {MANIFEST} says nothing that can be meant") from error
    newest = migrations()[-1][0]
    if manifest.schema > newest:
        raise SchemaTooNew(
            f"{path} has schema {manifest.schema}, this version knows {newest}; "
            f"restore it with the version that made it ({manifest.version}), or a later one"
        )
    return manifest


def _kind(member: tarfile.TarInfo, path: Path) -> str:
    folder, _, name = member.name.rpartition("/")
    if member.isfile() and (member.name == DATABASE or (folder in FOLDERS and name not in ("", ".", ".."))):
        return folder or DATABASE
    raise BadInput(f"{path} holds {member.name!r}, which no backup of battctl's does")


def _write_file(target: Path, held: IO[bytes], member: tarfile.TarInfo) -> None:
    with _written(target):
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as out:  # nothing is left for its close to write
        while piece := held.read(PIECE):
            with _written(target):
                left = memoryview(piece)
                while left:
                    left = left[out.write(left) :]
        with _written(target):
            os.utime(fd, (member.mtime, member.mtime))


@contextmanager
def _read(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        told = (error.strerror if isinstance(error, OSError) else None) or error
        raise BadInput(f"{path} cannot be read as a backup: {told}") from error


@contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupFailed(f"{target} cannot be written: {error.strerror or error}") from error
