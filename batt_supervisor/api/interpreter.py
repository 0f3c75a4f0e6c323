"""Where the interpreter of a run finds modules, as far as that can be told without running it."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HARMLESS_HOOKS: Final = frozenset({"distutils-precedence.pth", "_virtualenv.pth"})
"""Lines of code in a site-packages folder that make no module importable; nearly every environment has one of these."""


@dataclass(frozen=True, slots=True)
class Search:
    """Where modules are looked for.

    Attributes:
        first: The run's own directory and PYTHONPATH.
        installed: What its interpreter has after that.
        ours: It is battd's own interpreter, whose import hooks are known.
        trusting: It may find modules where nobody else can look; what is not found is taken on trust.
    """

    first: tuple[str, ...]
    installed: tuple[str, ...] = ()
    ours: bool = True
    trusting: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        return self.first + self.installed


def search_of(python: str, first: tuple[str, ...]) -> Search:
    """The search of battd's own interpreter (`python` is empty), or of another of the same version."""
    if not python:
        return Search(first, tuple(sys.path))
    # Without resolving symbolic links: an environment's bin/python is one, and its packages are beside it.
    prefix = Path(python).parent.parent
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = prefix / "lib" / version / "site-packages"
    linked, hooked = _linked(packages)
    # Of the interpreter itself, where battd runs in an environment of its own.
    based = {"platbase": sys.base_exec_prefix}
    library = tuple(dict.fromkeys(sysconfig.get_path(key, vars=based) for key in ("stdlib", "platstdlib")))
    extensions = tuple(f"{place}/lib-dynload" for place in library)
    return Search(
        first,
        (*library, *extensions, str(packages), *linked),
        ours=False,
        trusting=hooked or not _closed(prefix / "pyvenv.cfg"),
    )


def _closed(config: Path) -> bool:
    """Whether it is an environment that sees its own packages only."""
    try:
        text = config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"^\s*include-system-site-packages\s*=\s*true\s*$", text, re.MULTILINE | re.IGNORECASE) is None


def _linked(packages: Path) -> tuple[tuple[str, ...], bool]:
    """Folders that the .pth files of a site-packages folder add, and whether any of them runs code instead."""
    folders: list[str] = []
    hooked = False
    for name in sorted(listed(packages)):
        if name.endswith(".pth"):
            for line in _lines(packages / name):
                if line.startswith(("import ", "import\t")):
                    hooked = hooked or name not in HARMLESS_HOOKS
                else:
                    folders.append(str(packages / line))
    return tuple(folders), hooked


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.rstrip()


def listed(folder: str | Path) -> list[str]:
    """Names in a folder; none of one that cannot be listed, by which only a suggestion is lost."""
    try:
        return [entry.name for entry in Path(folder).iterdir()]
    except OSError:
        return []
