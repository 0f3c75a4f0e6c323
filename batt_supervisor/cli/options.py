"""What every command has in common: which battd is meant, and whether the answer is for a program."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import typer

from batt_supervisor.cli.place import Flags, Place, find
from batt_supervisor.errors import BadInput
from batt_supervisor.units import parse_duration, parse_size

if TYPE_CHECKING:
    from batt_supervisor.client import Client

SocketOption = Annotated[
    str | None,
    typer.Option("--socket", metavar="PATH", help="battd's socket [BATT_SOCKET; default: STATE_DIR/battd.sock]."),
]
StateDirOption = Annotated[
    str | None, typer.Option("--state-dir", metavar="DIR", help="battd's state directory [BATT_STATE_DIR].")
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="battd's configuration, for the two paths above [BATT_CONFIG]."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@dataclass(frozen=True)
class Caller:
    """What was said before the command's name and behind it, together."""

    flags: Flags = field(default_factory=Flags)
    json: bool = False

    @cached_property
    def place(self) -> Place:
        return find(self.flags, os.environ)

    def client(self) -> Client:
        from batt_supervisor.client import Client

        return Client(self.place.socket)


def caller(ctx: typer.Context, flags: Flags, as_json: bool) -> Caller:
    """The caller of a command: its own flags win over those before its name."""
    outer = ctx.obj if isinstance(ctx.obj, Caller) else Caller()
    return Caller(flags.over(outer.flags), as_json or outer.json)


def duration(option: str, text: str | None, *, or_none: bool = False) -> float | None:
    """Seconds of an option's value, longer than nothing.

    Args:
        or_none: It is a limit that can be switched off: 0 is one of its values.

    Raises:
        BadInput: It is no duration; the sentence names the option.
    """
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except BadInput as error:
        raise BadInput(f"{option}: {error}") from None
    if seconds <= 0 and not or_none:
        raise BadInput(f"{option} must be longer than 0")
    return seconds


def size(option: str, text: str | None) -> int | None:
    """Bytes of an option's value.

    Raises:
        BadInput: It is no size; the sentence names the option.
    """
    try:
        return None if text is None else parse_size(text)
    except BadInput as error:
        raise BadInput(f"{option}: {error}") from None


def reference(text: str) -> str:
    """A run or task as it was named.

    Raises:
        BadInput: It is empty, or no name that a run can have.
    """
    if not text.strip() or "/" in text or text in (".", ".."):
        raise BadInput(f"{text!r} names no run or task: give an id as r7 or t12, or a run's name")
    return text


def is_task(text: str) -> bool:
    """Whether a reference means a task: `t12`. Everything else is a run."""
    return text[:1] == "t" and text[1:].isdecimal()
