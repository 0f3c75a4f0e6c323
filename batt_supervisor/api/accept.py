"""Checks a submission before anything of it is written: can its functions and commands be found, may they run?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence

from batt_supervisor.api.functions import check_function
from batt_supervisor.api.interpreter import listed, search_of
from batt_supervisor.config import Settings
from batt_supervisor.core.levels import scaled
from batt_supervisor.core.model import Limits, Room, Space, Work
from batt_supervisor.errors import BadInput, NotAllowed, nearest
from batt_supervisor.store.values import NewRun, NewStage
from batt_supervisor.units import format_size
from batt_supervisor.wire import RunSpec, StageSpec


def new_run(spec: RunSpec, settings: Settings, environ: Mapping[str, str], total: Space | None = None) -> NewRun:
    """The run that a specification asks for.

    Args:
        environ: battd's own environment, which the run's variables are set over.
        total: What the whole machine has, by the last reading; None where there is none.

    Raises:
        BadInput: A function, command, directory, interpreter, stage, limit or need in it cannot be meant.
        NotAllowed: `allow` has no pattern for it.
    """
    if not os.path.isabs(spec.cwd) or not os.path.isdir(spec.cwd):
        raise BadInput(f"cwd: {spec.cwd!r} is not an absolute path of a directory")
    if spec.python is not None and not _is_executable(spec.python):
        raise BadInput(f"python: {spec.python!r} is not an absolute path of an executable file")
    for name, value in spec.env.items():
        if not name or "=" in name or "\0" in name + value or not _encodable(name + value):
            raise BadInput(f"env: {name!r} cannot be a variable, or have this value")
    names = [stage.name for stage in spec.stages]
    if len(set(names)) != len(names):
        raise BadInput(f"stages: two have the name {next(name for name in names if names.count(name) > 1)!r}")
    room = Room(spec.cwd, tuple(sorted(spec.env.items())), spec.python or "")
    stages = []
    for number, stage in enumerate(spec.stages):
        _check_work(stage, settings, {**environ, **spec.env}, room)
        limits = settings.limits(
            timeout_s=stage.timeout_s,
            soft_timeout_s=stage.soft_timeout_s,
            max_attempts=stage.max_attempts,
            retry_delay_s=stage.retry_delay_s,
            cpu_limit_s=stage.cpu_limit_s,
            stall_timeout_s=stage.stall_timeout_s,
            memory_limit_bytes=stage.memory_limit_bytes,
            thread_limit=stage.thread_limit,
            output_limit_bytes=stage.output_limit_bytes,
        )
        _check_need(stage, limits, settings, total)
        work = Work(
            room,
            limits,
            stage.function,
            stage.command or (),
            stage.shell,
            stage.allow_children,
            spec.seed,
            need_memory_bytes=stage.need_memory_bytes or None,
            need_threads=stage.need_threads or None,
            name=stage.kind or "",
        )
        stages.append(NewStage(stage.name, work, tuple(_after(stage, names[:number]))))
    return NewRun(
        spec.name,
        spec.key,
        spec.cwd,
        spec.env,
        spec.deadline_s,
        tuple(stages),
        python=room.python,
        seed=spec.seed,
        unique_name=spec.unique_name,
    )


def _is_executable(path: str) -> bool:
    return (
        os.path.isabs(path)
        and "\0" not in path
        and _encodable(path)
        and os.path.isfile(path)
        and os.access(path, os.X_OK)
    )


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False  # half of a surrogate pair: JSON can hold it, an environment cannot
    return True


def _after(stage: StageSpec, earlier: Sequence[str]) -> Iterator[int]:
    for name in stage.after:
        if name not in earlier:
            raise BadInput(f"stage {stage.name!r}: 'after' names no earlier stage: {name!r}{nearest(name, earlier)}")
        yield earlier.index(name)


def _check_work(stage: StageSpec, settings: Settings, environ: Mapping[str, str], room: Room) -> None:
    if stage.function is not None:
        if not settings.allows(stage.function):
            raise NotAllowed(f"function {stage.function!r} is not allowed here: allow = {list(settings.allow)}")
        first = (room.cwd, *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep)))
        check_function(stage.function, search_of(room.python, first))
    elif stage.command:
        if any("\0" in part for part in stage.command):
            raise BadInput(f"stage {stage.name!r}: a command cannot hold NUL characters")
        word = "/bin/sh" if stage.shell else stage.command[0]
        if not settings.allows(f"cmd:{word}"):
            raise NotAllowed(f"command {word!r} is not allowed here: allow = {list(settings.allow)}")
        if not stage.shell:
            _check_command(word, environ.get("PATH", os.defpath), room.cwd)


def _check_need(stage: StageSpec, limits: Limits, settings: Settings, total: Space | None) -> None:
    """Refuse a need that an attempt may not have, or that this machine never has: its tasks would be held for ever."""
    before = f"stage {stage.name!r}: "
    if stage.kind is not None and not (stage.kind.strip() and stage.kind.isprintable()):
        raise BadInput(f"{before}kind: {stage.kind!r} cannot be used: it must be printable characters")
    memory, threads = stage.need_memory_bytes or 0, stage.need_threads or 0
    if limits.memory_limit_bytes is not None and memory > limits.memory_limit_bytes:
        limit = format_size(limits.memory_limit_bytes)
        raise BadInput(f"{before}need_memory ({format_size(memory)}) is more than memory_limit ({limit})")
    if limits.thread_limit is not None and threads > limits.thread_limit:
        raise BadInput(f"{before}need_threads ({threads}) is more than thread_limit ({limits.thread_limit})")
    if total is None:
        return
    reserve = scaled(Space(settings.reserve_memory, settings.reserve_threads), total)
    left = total - reserve
    most = "is more than this machine has for tasks"
    if memory > left.memory_bytes:
        has = f"{format_size(total.memory_bytes)}, less {format_size(reserve.memory_bytes)} in reserve"
        has = f"{format_size(left.memory_bytes)} ({has})"
        raise BadInput(f"{before}need_memory ({format_size(memory)}) {most}: {has}")
    if threads > left.threads:
        has = f"{left.threads} ({total.threads}, less {reserve.threads} in reserve)"
        raise BadInput(f"{before}need_threads ({threads}) {most}: {has}")


def _check_command(word: str, path: str, cwd: str) -> None:
    if "{item}" in word:
        return  # known only for each task
    if os.sep in word:
        file = os.path.join(cwd, word)
        if not os.path.isfile(file) or not os.access(file, os.X_OK):
            raise BadInput(f"command {word!r} is not an executable file below {cwd}")
    elif shutil.which(word, path=path) is None:
        found = (name for folder in path.split(os.pathsep) for name in listed(folder))
        raise BadInput(f"command {word!r} is not found on the PATH{nearest(word, found)}")
