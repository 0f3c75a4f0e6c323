"""What is to be submitted: a run's shape, and for each stage where its tasks come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batt_supervisor.cli import items as items_of
from batt_supervisor.cli.choose import Choice, Chooser
from batt_supervisor.cli.interpreter import interpreter
from batt_supervisor.cli.runfile import ItemsCall, Limits, RunFile, Stage, sentence
from batt_supervisor.errors import BadInput
from batt_supervisor.wire import RunSpec, StageSpec, TaskSpec

Json = Any


@dataclass(frozen=True, slots=True)
class Source:
    """Where a stage's tasks come from: one task with `args`, or one for each of `items`."""

    stage: str
    args: dict[str, Json] | list[Json]
    items: Callable[[], Iterator[Json]] | None = None
    group_by: str | None = None
    command: bool = False

    def tasks(self, number: int, chooser: Chooser) -> Iterator[TaskSpec]:
        if self.items is None:
            yield TaskSpec(stage=number, args=self.args)
            return
        for item in chooser.take(self.stage, self.items, self.group_by):
            args = {"item": items_of.item_text(item)} if self.command else items_of.arguments(item)
            yield TaskSpec(stage=number, args=args)


@dataclass(frozen=True, slots=True)
class Batch:
    """A run as it will be submitted."""

    spec: RunSpec
    sources: tuple[Source, ...]
    choice: Choice | None = None

    def tasks(self) -> Iterator[TaskSpec]:
        """Its tasks, stage by stage, made as they are asked for.

        Raises:
            BadInput: An item is wrong, or there is no task at all.
        """
        chooser = Chooser(self.choice)
        none = True
        for number, source in enumerate(self.sources):
            for task in source.tasks(number, chooser):
                none = False
                yield task
        if none:
            raise BadInput("there are no items, so there is nothing to submit")


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says over a run file, or instead of one."""

    name: str | None = None
    key: str | None = None
    unique_name: bool = False
    deadline_s: float | None = None
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    python: str | None = None
    seed: int | None = None
    timeout_s: float | None = None
    soft_timeout_s: float | None = None
    max_attempts: int | None = None
    retry_delay_s: float | None = None
    cpu_limit_s: float | None = None
    stall_timeout_s: float | None = None
    memory_limit_bytes: int | None = None
    thread_limit: int | None = None
    output_limit_bytes: int | None = None
    allow_children: bool | None = None
    need_memory_bytes: int | None = None
    need_threads: int | None = None
    kind: str | None = None

    @property
    def limits(self) -> Limits:
        return Limits.model_construct(
            timeout=self.timeout_s,
            soft_timeout=self.soft_timeout_s,
            max_attempts=self.max_attempts,
            retry_delay=self.retry_delay_s,
            cpu_limit=self.cpu_limit_s,
            stall_timeout=self.stall_timeout_s,
            memory_limit=self.memory_limit_bytes,
            thread_limit=self.thread_limit,
            output_limit=self.output_limit_bytes,
            allow_children=self.allow_children,
            memory=self.need_memory_bytes,
            threads=self.need_threads,
            kind=self.kind,
        )


def from_file(path: Path, run: RunFile, flags: Flags, here: Path, choice: Choice | None) -> Batch:
    """The batch that a run file asks for, flags over its keys.

    Args:
        here: The caller's directory, where neither the file nor a flag names another.
    """
    folder = path.absolute().parent
    cwd = directory(flags.cwd, here, "--cwd") if flags.cwd else directory(run.cwd or str(here), folder, "cwd")
    env = {**run.env, **(flags.env or {})}
    sources = tuple(_source(stage, folder, cwd, env) for stage in run.stage)
    if choice is not None and all(source.items is None for source in sources):
        raise BadInput("-c and --random choose among items, and no stage of the run file has any")
    functions = any(stage.function is not None for stage in run.stage)
    if flags.soft_timeout_s is not None and not functions:
        raise BadInput("--soft-timeout is for functions, and every stage of the run file is a command")
    stages = tuple(_stage(stage, _limits(stage, flags.limits, run.limits)) for stage in run.stage)
    spec = _spec(
        flags.name or run.name or path.stem,
        flags,
        deadline_s=run.deadline,
        cwd=cwd,
        env=env,
        python=_python(flags.python, here, run.python, folder, functions=functions),
        seed=run.seed,
        stages=stages,
    )
    return Batch(spec, sources, choice)


def _limits(stage: Stage, flags: Limits, defaults: Limits) -> Limits:
    """A stage's limits; what is said for all stages of a soft timeout is not said for commands."""
    limits = flags.over(stage).over(defaults)
    return limits if stage.function is not None else limits.model_copy(update={"soft_timeout": stage.soft_timeout})


def _python(flag: str | None, here: Path, key: str | None, folder: Path, *, functions: bool) -> str | None:
    """The run's interpreter, absolute, where the command line or the run file names one."""
    given, base, called = (flag, here, "--python") if flag is not None else (key, folder, "python")
    if given is None:
        return None
    if not functions:
        raise BadInput(f"{called} is for functions; a command names its own interpreter")
    return interpreter(given, base, called)


def from_flags(
    *,
    function: str | None,
    command: tuple[str, ...],
    shell: bool,
    items: str | None,
    args: dict[str, Json] | list[Json],
    flags: Flags,
    here: Path,
    choice: Choice | None,
) -> Batch:
    """The batch of one stage that the command line describes."""
    cwd = directory(flags.cwd or str(here), here, "--cwd")
    name = function or Path(command[0].split()[0]).name
    if function:
        source = Source(name, args, partial(items_of.json_lines, items) if items else None)
        name = function.partition(":")[2]
        stage = _stage(Stage.model_construct(name=name, function=function), flags.limits)
    else:
        if ("{item}" in " ".join(command)) != (items is not None):
            raise BadInput(
                "--items is given, but the command has no {item} that takes one"
                if items is not None
                else "the command has {item}, but there are no --items to fill it from"
            )
        if flags.soft_timeout_s is not None:
            raise BadInput("--soft-timeout is for functions; a command is ended by its --timeout")
        source = Source(name, {}, partial(items_of.text_lines, items) if items else None, command=True)
        stage = _stage(Stage.model_construct(name=name, command=command, shell=shell), flags.limits)
    spec = _spec(
        flags.name or function or name,
        flags,
        cwd=cwd,
        env=dict(flags.env or {}),
        python=_python(flags.python, here, None, here, functions=function is not None),
        stages=(stage,),
    )
    return Batch(spec, (source,), choice)


def directory(path: str, base: Path, called: str) -> Path:
    """An existing directory, absolute.

    Raises:
        BadInput: There is none.
    """
    found = (base / Path(path).expanduser()).resolve()
    if not found.is_dir():
        raise BadInput(f"{called}: {found} is {'not a directory' if found.exists() else 'not there'}")
    return found


def _source(stage: Stage, folder: Path, cwd: Path, env: Mapping[str, str]) -> Source:
    is_command = stage.command is not None
    if stage.command is not None and ("{item}" in " ".join(stage.command)) != (stage.items is not None):
        raise BadInput(
            f"stage {stage.name!r}: "
            + (
                "'command' has no {item} that takes one"
                if stage.items
                else "'command' has {item}, but there are no 'items'"
            )
        )
    args = {} if is_command else items_of.arguments(stage.args) if stage.args is not None else []
    read: Callable[[], Iterator[Json]] | None = None
    if isinstance(stage.items, ItemsCall):
        read = partial(items_of.yielded, stage.items.function, stage.items.args, cwd, env)
    elif stage.items == "-":
        if stage.group_by is not None:
            raise BadInput(f"stage {stage.name!r}: items from standard input are read once and cannot be grouped")
        read = partial(items_of.text_lines if is_command else items_of.json_lines, "-")
    elif stage.items is not None:
        read = partial(items_of.text_lines if is_command else items_of.json_lines, str(folder / stage.items))
    return Source(stage.name, args, read, stage.group_by, is_command)


def _stage(stage: Stage, limits: Limits) -> StageSpec:
    # A shell's command is one string; several words are put together as ssh does it.
    command = (" ".join(stage.command),) if stage.command is not None and stage.shell else stage.command
    try:
        return StageSpec(
            name=stage.name,
            function=stage.function,
            command=command,
            shell=stage.shell,
            timeout_s=limits.timeout,
            soft_timeout_s=limits.soft_timeout,
            max_attempts=limits.max_attempts,
            retry_delay_s=limits.retry_delay,
            cpu_limit_s=limits.cpu_limit,
            stall_timeout_s=limits.stall_timeout,
            memory_limit_bytes=limits.memory_limit,
            thread_limit=limits.thread_limit,
            output_limit_bytes=limits.output_limit,
            allow_children=bool(limits.allow_children),
            need_memory_bytes=limits.memory,
            need_threads=limits.threads,
            kind=limits.kind,
            after=stage.after,
        )
    except ValidationError as error:
        raise BadInput(sentence(error)) from error


def _spec(
    name: str,
    flags: Flags,
    *,
    cwd: Path,
    env: dict[str, str],
    python: str | None,
    stages: tuple[StageSpec, ...],
    deadline_s: float | None = None,
    seed: int | None = None,
) -> RunSpec:
    """The run; what a flag says of deadline and seed is over what is given here."""
    try:
        return RunSpec(
            name=name,
            key=flags.key,
            unique_name=flags.unique_name,
            deadline_s=flags.deadline_s if flags.deadline_s is not None else deadline_s,
            cwd=str(cwd),
            env=env,
            python=python,
            seed=flags.seed if flags.seed is not None else seed,
            stages=stages,
        )
    except ValidationError as error:
        raise BadInput(sentence(error)) from error
