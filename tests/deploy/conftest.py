"""A folder as supervisor.conf expects it, and a real supervisord in it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy_service import BIN, ROOT, Supervised


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder. Not in pytest's: its names are too long for sockets."""
    if not (BIN / "battd").exists():
        pytest.skip(f"battd is not installed in {sys.prefix}; `make test` installs it")
    path = Path(tempfile.mkdtemp(prefix="batt-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(folder: Path) -> Path:
    """supervisor.conf beside a virtual environment."""
    (folder / "supervisor.conf").symlink_to(ROOT / "supervisor.conf")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture
def supervised(home: Path) -> Iterator[Supervised]:
    service = Supervised(home)
    yield service
    service.end()
