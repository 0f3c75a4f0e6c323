"""Every exit code of battctl and battd. docs/exit-codes.md is written from this table."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from batt_supervisor.core.lifecycle import RunState


class Exit(IntEnum):
    """The numbers; `TABLE` says what they mean."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    PARTIAL = 3
    CANCELLED = 4
    TIMED_OUT = 5
    NOT_FOUND = 6
    UNREACHABLE = 7
    REFUSED = 8
    INTERNAL = 70
    CANNOT_CREATE = 73
    HELD = 75
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class Meaning(NamedTuple):
    """What a code says, for each program; empty where that program never gives it."""

    battctl: str
    battd: str = ""


TABLE: Final[dict[Exit, Meaning]] = {
    Exit.OK: Meaning("done; `wait`: every task succeeded", "drained and ended as asked"),
    Exit.FAILED: Meaning(
        "`wait`: the run ended and some task failed; `doctor`, `check --store`: something is bad; `backup`, `restore`: "
        "done, and something that the database names is missing"
    ),
    Exit.BAD_INPUT: Meaning(
        "what was given cannot be meant (option, argument, run file, items); nothing was changed",
        "a flag, variable or configuration key is wrong; it did not start",
    ),
    Exit.PARTIAL: Meaning("`wait`: the run's deadline passed before all of its tasks had ended"),
    Exit.CANCELLED: Meaning("`wait`: the run was cancelled"),
    Exit.TIMED_OUT: Meaning("`wait --timeout` passed first; the run goes on"),
    Exit.NOT_FOUND: Meaning("no such run or task"),
    Exit.UNREACHABLE: Meaning("no battd answers on the socket"),
    Exit.REFUSED: Meaning(
        "battd answered, but cannot do it (it drains, its store is not available, the task has ended already); "
        "`backup`, `check --store`: the database cannot be read",
        "the database cannot be opened, or is none; it did not start",
    ),
    Exit.INTERNAL: Meaning("a defect of battctl", "a defect of battd: one of its threads ended or hung"),
    Exit.CANNOT_CREATE: Meaning(
        "the database or backup is newer than this program; a backup or what is restored from one cannot be written",
        "the state directory or socket cannot be made, or the database is newer than this battd",
    ),
    Exit.HELD: Meaning("`restore`: a battd has taken the directory", "another battd holds the state directory"),
    Exit.INTERRUPTED: Meaning("stopped with Ctrl-C; a run that was waited for goes on"),
    Exit.PIPE_CLOSED: Meaning("whoever read the output went away (as `head` does)"),
}

OF_RUN: Final[dict[RunState, Exit]] = {
    RunState.SUCCEEDED: Exit.OK,
    RunState.FAILED: Exit.FAILED,
    RunState.PARTIAL: Exit.PARTIAL,
    RunState.CANCELLED: Exit.CANCELLED,
}
"""What `wait` exits with when a run has ended in a state."""


def markdown() -> str:
    """The page docs/exit-codes.md."""
    rows = "\n".join(f"| {code:d} | {said.battctl or '-'} | {said.battd or '-'} |" for code, said in TABLE.items())
    return f"""\
# Exit codes

Written from `batt_supervisor/cli/exits.py`; a test compares the two.

| code | battctl | battd |
| ---: | --- | --- |
{rows}

With a code other than 0, 1, 3, 4 and 5 battctl prints one line on standard error, `battctl: ` and what is wrong; with
`--json` a second one holds the same as `{{"error": WORD, "message": SENTENCE}}`.
"""
