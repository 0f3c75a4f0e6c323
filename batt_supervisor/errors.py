"""Every exception of the project, its stable word, its HTTP status and the exit code that battctl gives for it.

A task's own failure is never one of these: it is a value (`core.model.Outcome`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class BattError(Exception):
    """Root of the tree.

    Attributes:
        code: Stable word for programs: the API's `error`, also in logs.
        http_status: What the API answers with.
        exit_code: What battctl and battd exit with (docs/exit-codes.md).
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 8


class BadInput(BattError):
    """Something that was given cannot be meant; the sentence names the field and the nearest valid name."""

    code, http_status, exit_code = "bad_input", 422, 2


class BadConfiguration(BadInput):
    """The configuration file, a BATT_ variable or a flag of battd is wrong; battd does not start on it."""

    code = "bad_configuration"


class NotAllowed(BadInput):
    """The function or command is outside the configured `allow` list."""

    code, http_status = "not_allowed", 403


class NotFound(BattError):
    """No run or task has that id or name."""

    code, http_status, exit_code = "not_found", 404, 6


class Unreachable(BattError):
    """No battd answers on the socket."""

    code, http_status, exit_code = "unreachable", 503, 7


class Refused(BattError):
    """battd answered, but cannot do this now (it drains, its store is unavailable, the run is already sealed)."""

    code, http_status, exit_code = "refused", 409, 8


class StoreUnavailable(Refused):
    """The database cannot be read or written now; the message says why. Nothing was acknowledged."""

    code, http_status = "store_unavailable", 503


class StoreMissing(StoreUnavailable):
    """Files of the database are not where they were; the message says which. They may be put back."""

    code = "store_missing"


class StoreDamaged(StoreUnavailable):
    """A page of the database is not what SQLite wrote. Nothing starts on it until it was checked or restored."""

    code = "store_damaged"


class SchemaTooNew(BattError):
    """The database was written by a later version; this one neither reads nor changes it."""

    code, http_status, exit_code = "schema_too_new", 503, 73


class StateDirUnusable(BattError):
    """The state directory, the socket or a file below them cannot be made."""

    code, http_status, exit_code = "state_dir_unusable", 503, 73


class StateDirHeld(BattError):
    """Another battd serves this state directory; the message names its pid and socket."""

    code, http_status, exit_code = "state_dir_held", 409, 75


class BackupFailed(BattError):
    """A backup, or what is restored from one, could not be written; nothing of it is left."""

    code, http_status, exit_code = "backup_failed", 503, 73


class IllegalTransition(BattError):
    """The lifecycle table has no such move; always a defect of the caller."""

    code, http_status = "illegal_transition", 409


class SlotBroken(BattError):
    """A slot's pool cannot take work any more. An ordinary event: the slot is replaced."""

    code = "slot_broken"


def nearest(name: str, valid: Iterable[str]) -> str:
    """The tail of an error sentence: the valid name nearest to `name`, or all of them when there are few.

    Returns an empty string when nothing can be suggested, so that it can be appended as it is.
    """
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    if 0 < len(names) <= 12:
        return f"; valid are: {', '.join(names)}"
    return ""
