"""Run files: a run's name, limits and stages in TOML; docs/run-files.md describes the keys."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from batt_supervisor.cli.items import FUNCTION
from batt_supervisor.errors import BadInput, nearest
from batt_supervisor.sentences import complaint
from batt_supervisor.units import parse_duration, parse_size

Json = Any


def _duration(value: object) -> float:
    try:
        seconds = parse_duration(value)  # type: ignore[arg-type]  # it refuses every other type by itself
    except BadInput as error:
        raise ValueError(str(error)) from None
    if seconds <= 0:
        raise ValueError("must be longer than 0")
    return seconds


def _duration_or_none(value: object) -> float:
    try:
        return parse_duration(value)  # type: ignore[arg-type]
    except BadInput as error:
        raise ValueError(str(error)) from None


def _size(value: object) -> int:
    try:
        return parse_size(value)  # type: ignore[arg-type]
    except BadInput as error:
        raise ValueError(str(error)) from None


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _function(value: object) -> object:
    if isinstance(value, str) and not FUNCTION.fullmatch(value):
        raise ValueError(f"{value!r} is not an import path: write for example 'package.module:function'")
    return value


Duration = Annotated[float, BeforeValidator(_duration)]
DurationOrNone = Annotated[float, BeforeValidator(_duration_or_none)]
Size = Annotated[int, BeforeValidator(_size)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Function = Annotated[str, BeforeValidator(_function)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Part):
    """What an attempt may take, and what it needs; in a run file under [limits], and in each stage over it."""

    timeout: Duration | None = None
    soft_timeout: Duration | None = None
    max_attempts: int | None = Field(default=None, ge=1, le=1000)
    retry_delay: Duration | None = None
    cpu_limit: DurationOrNone | None = None
    stall_timeout: DurationOrNone | None = None
    memory_limit: Size | None = None
    thread_limit: Count | None = None
    output_limit: Size | None = None
    allow_children: bool | None = None
    memory: Size | None = None
    threads: Count | None = None
    kind: str | None = Field(default=None, min_length=1, max_length=200)

    def over(self, other: Limits) -> Limits:
        """These limits, and those of `other` where these say nothing."""
        return Limits.model_construct(
            **{name: _first(getattr(self, name), getattr(other, name)) for name in Limits.model_fields}
        )


def _first(value: Json, otherwise: Json) -> Json:
    return otherwise if value is None else value


class ItemsCall(_Part):
    """Items that a function yields when the run is submitted."""

    function: Function
    args: dict[str, Json] | list[Json] = Field(default_factory=dict)


class Stage(Limits):
    """One [[stage]]."""

    name: str = Field(min_length=1, max_length=200)
    function: Function | None = None
    command: tuple[str, ...] | None = None
    shell: bool = False
    items: str | ItemsCall | None = None
    args: Json = None
    group_by: str | None = None
    after: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if (self.function is None) == (self.command is None):
            raise ValueError("give exactly one of 'function' and 'command'")
        if self.command is not None and not any(self.command):
            raise ValueError("'command' is empty")
        if self.shell and self.command is None:
            raise ValueError("'shell' goes with 'command' only")
        if self.soft_timeout is not None and self.command is not None:
            raise ValueError("'soft_timeout' is for functions; a command is ended by its 'timeout'")
        if self.args is not None and (self.items is not None or self.command is not None):
            raise ValueError("'args' is the one task of a 'function' without 'items'")
        if self.group_by is not None and (self.items is None or self.command is not None):
            raise ValueError("'group_by' names a field of the 'items' of a 'function'")
        return self


class RunFile(_Part):
    """A whole run file."""

    name: str | None = None
    deadline: Duration | None = None
    cwd: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    python: str | None = Field(default=None, min_length=1)
    seed: Count | None = None
    limits: Limits = Limits()
    stage: tuple[Stage, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _stages_fit(self) -> RunFile:
        earlier: list[str] = []
        for stage in self.stage:
            if stage.name in earlier:
                raise ValueError(f"two stages are named {stage.name!r}")
            for name in stage.after:
                if name not in earlier:
                    raise ValueError(
                        f"stage {stage.name!r} comes after {name!r}, which is no earlier stage{nearest(name, earlier)}"
                    )
            earlier.append(stage.name)
        return self


def load(path: Path) -> RunFile:
    """Read and check a run file.

    Raises:
        BadInput: It cannot be read or meant; one sentence with the key and the nearest valid one.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"the run file {path} cannot be read: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise BadInput(f"the run file {path} is not TOML: {error}") from error
    try:
        return RunFile.model_validate(table)
    except ValidationError as error:
        raise BadInput(f"the run file {path}: {sentence(error, _KEYS, table)}") from error


_KEYS: Final[Mapping[tuple[str, ...], type[BaseModel]]] = {
    (): RunFile,
    ("limits",): Limits,
    ("stage",): Stage,
    ("stage", "items"): ItemsCall,
}
"""Which keys are valid where; places in lists left out."""


def sentence(
    error: ValidationError, keys: Mapping[tuple[str, ...], type[BaseModel]] | None = None, table: Json = None
) -> str:
    """The first thing that is wrong, for people: where it is, what it is, and the nearest valid key.

    Args:
        keys: Which models the places have whose unknown keys are to be explained.
        table: What was checked; stages are called by their names in it.
    """
    # An unknown key explains what is missing beside it; of a union's complaints the deepest is about what was meant.
    first = max(
        error.errors(include_url=False), key=lambda found: (found["type"] == "extra_forbidden", len(found["loc"]))
    )
    place = [part for part in first["loc"] if part not in _BRANCHES]
    message = complaint(first)
    model = (keys or {}).get(tuple(part for part in place[:-1] if isinstance(part, str)))
    before = ""
    if len(place) > 1 and place[0] == "stage" and isinstance(place[1], int):
        before, place = _stage_name(table, place[1]), place[2:]
    if first["type"] == "extra_forbidden":
        return f"{before}unknown key '{_dotted(place)}'{nearest(str(place[-1]), model.model_fields if model else ())}"
    if first["type"] == "missing":
        return f"{before}'{_dotted(place)}' is missing"
    return f"{before}'{_dotted(place)}': {message}" if place else f"{before}{message}"


def _stage_name(table: Json, number: int) -> str:
    try:
        return f"stage {table['stage'][number]['name']!r}: "
    except (KeyError, TypeError, IndexError):
        return f"stage {number + 1}: "


_BRANCHES: Final = frozenset({"str", "ItemsCall", "dict[str,any]", "list[any]"})
"""What pydantic adds to a place for the branch of a union that it has tried."""


def _dotted(place: list[str | int]) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
