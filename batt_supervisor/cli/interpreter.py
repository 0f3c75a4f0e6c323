"""The interpreter of a run's functions: found, and asked for its version, before anything is submitted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from batt_supervisor.errors import BadInput

ANSWER_S: Final = 20.0
"""How long it may take to say its version: an environment on a slow file system starts slowly."""

_ASK: Final = "import sys; print('%d.%d' % sys.version_info[:2])"


def interpreter(given: str, base: Path, called: str) -> str:
    """The absolute path of an interpreter of this Python's own version.

    Symbolic links are kept: an environment's python is one, and its packages are found by where the link is.

    Args:
        given: A path, relative to `base`, or a bare name, looked for on the PATH.
        called: What it was given as, for the sentence.

    Raises:
        BadInput: There is none, it does not answer, or its version is another.
    """
    found = given if os.sep in given else shutil.which(given)
    if found is None:
        raise BadInput(f"{called}: {given!r} is not found on the PATH; give the path of an interpreter")
    path = os.path.normpath(base / Path(found).expanduser())
    if not Path(path).is_file() or not os.access(path, os.X_OK):
        raise BadInput(f"{called}: {path} is not an executable file")
    theirs, ours = _version(path, called), f"{sys.version_info.major}.{sys.version_info.minor}"
    if theirs != ours:
        raise BadInput(
            f"{called}: {path} is Python {theirs}, and battd's tasks need Python {ours}, as battd itself has"
        )
    return path


def _version(path: str, called: str) -> str:
    try:
        said = subprocess.run(
            [path, "-I", "-c", _ASK], capture_output=True, stdin=subprocess.DEVNULL, timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BadInput(f"{called}: {path} does not say its version within {ANSWER_S:g} s") from None
    except OSError as error:
        raise BadInput(f"{called}: {path} cannot be run: {error.strerror or error}") from error
    text = said.stdout.decode(errors="replace").strip()
    if said.returncode != 0 or not text.replace(".", "", 1).isdecimal():
        raise BadInput(f"{called}: {path} does not answer as a Python does (exit code {said.returncode})")
    return text
