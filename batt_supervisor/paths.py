"""Where battd keeps its state and listens, when nothing says so; battd and battctl must come to the same answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

SOCKET_NAME = "battd.sock"

RESTORING = ".restore-"
"""How folders begin in which a backup is unpacked, in the state directory that it is restored into."""


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """The state directory: BATT_STATE_DIR, else the usual place for this user. Nothing is created.

    A notebook's user often has no home or one that cannot be written; then it is below /tmp, named by the user's id.
    Whoever creates that one must check that its owner is the user, since everybody can make names in /tmp.
    """
    if given := environ.get("BATT_STATE_DIR"):
        return Path(given).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/batt")
    for folder in _state_homes(environ):
        if _can_be_written(folder / "batt"):
            return folder / "batt"
    return Path(f"/tmp/batt-{os.geteuid()}")


def default_socket(environ: Mapping[str, str], state_dir: Path | None = None) -> Path:
    """The socket: BATT_SOCKET, else the one in `state_dir`, else the one in the default state directory."""
    if given := environ.get("BATT_SOCKET"):
        return Path(given).expanduser().absolute()
    return (state_dir if state_dir is not None else default_state_dir(environ)) / SOCKET_NAME


def _state_homes(environ: Mapping[str, str]) -> Iterator[Path]:
    for folder in (Path(environ.get("XDG_STATE_HOME", "")), Path(environ.get("HOME", "")) / ".local" / "state"):
        # The XDG specification has relative paths ignored; so is an unset or relative HOME.
        if folder.is_absolute():
            yield folder


def _can_be_written(folder: Path) -> bool:
    """Whether `folder` is, or could be made, a directory that this user writes to."""
    for place in (folder, *folder.parents):
        try:
            found = place.exists()
        except OSError:  # a parent that may not be searched
            return False
        if found:
            return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return False
