"""Which battd is meant: flags, then the environment, then the configuration file, then the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batt_supervisor.errors import BadConfiguration
from batt_supervisor.paths import SOCKET_NAME, default_state_dir


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says about the place; None where it says nothing."""

    socket: str | None = None
    state_dir: str | None = None
    config: str | None = None

    def over(self, other: Flags) -> Flags:
        """These flags, and those of `other` where these say nothing."""
        return Flags(self.socket or other.socket, self.state_dir or other.state_dir, self.config or other.config)


@dataclass(frozen=True, slots=True)
class Place:
    """A battd's state directory and socket."""

    state_dir: Path
    socket: Path


def find(flags: Flags, environ: Mapping[str, str]) -> Place:
    """The battd that is meant; each of its two paths is looked up by itself, as battd does.

    Raises:
        BadConfiguration: The configuration file cannot be read.
    """
    config = _config(flags.config or environ.get("BATT_CONFIG"))
    state_dir = flags.state_dir or environ.get("BATT_STATE_DIR") or config.get("state_dir")
    at = Path(state_dir).expanduser().absolute() if state_dir else default_state_dir(environ)
    socket = flags.socket or environ.get("BATT_SOCKET") or config.get("socket")
    return Place(at, Path(socket).expanduser().absolute() if socket else at / SOCKET_NAME)


def _config(path: str | None) -> dict[str, str]:
    """The keys `socket` and `state_dir` of a configuration file; battd looks after its other keys."""
    if not path:
        return {}
    import tomllib

    try:
        table = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfiguration(f"the configuration {path} cannot be read: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise BadConfiguration(f"the configuration {path} is not TOML: {error}") from error
    found: dict[str, str] = {}
    for key in ("socket", "state_dir"):
        if key in table:
            if not isinstance(table[key], str) or not table[key]:
                raise BadConfiguration(f"the configuration {path}: '{key}' must be a path, not {table[key]!r}")
            # Relative paths in the file are relative to the file.
            found[key] = str(Path(path).expanduser().absolute().parent / Path(table[key]).expanduser())
    return found
