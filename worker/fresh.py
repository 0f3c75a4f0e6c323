"""Imports a room's own modules from what is on disk now, and remembers what was on disk then.

Python trusts a cached .pyc when the source's size and modification time *in whole seconds* match, so a module that is
regenerated twice in a second runs its old code. And nobody tells a warm worker that a file has changed under it.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import CodeType
from typing import Any

Stamp = tuple[int, int, int, int]
"""A file's state: modification and change time in ns, size, inode."""

loaded: dict[str, Stamp] = {}
"""Files of the room's own modules, as they were just before they were read."""

_FOREIGN = tuple(
    os.path.realpath(path) + os.sep
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_paths().get(key))
)


def stamp(path: str) -> Stamp | None:
    """The file's state now; None when it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


class FreshLoader(SourceFileLoader):
    """Loads a source file, and leaves out a cached .pyc that may be older than the source."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        if not os.path.realpath(path).startswith(_FOREIGN):
            found = stamp(path)
            if found is not None:
                loaded[path] = found
        return super().get_code(fullname)

    def get_data(self, path: str) -> bytes:
        if path.endswith(tuple(BYTECODE_SUFFIXES)) and self.path in loaded:
            source = os.stat(self.path)
            # The change time, for a file may be put in place with an old modification time (rsync -t, cp -p, tar).
            if os.stat(path).st_mtime_ns <= max(source.st_mtime_ns, source.st_ctime_ns):
                raise OSError("its source has changed since")
        return super().get_data(path)

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        if self.path in loaded and stamp(self.path) != loaded[self.path]:
            return  # changed while it was compiled: this is the code of a file that is no more
        super().set_data(path, data, _mode=_mode)


def install() -> None:
    """Use FreshLoader for every import from now on."""
    hook = FileFinder.path_hook(
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (FreshLoader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )
    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
