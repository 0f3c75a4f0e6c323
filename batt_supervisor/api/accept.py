"""Checks a submission before anything of it is written: can its functions and commands be found, may they run?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence

from batt_supervisor.api.functions import check_function
from batt_supervisor.api.interpreter import listed, search_of
from batt_supervisor.config import Settings
from batt_supervisor.core.model import Room, Work
from batt_supervisor.errors import BadInput, NotAllowed, nearest
from batt_supervisor.store.submit import NewRun, NewStage
from batt_supervisor.wire import RunSpec, StageSpec


def new_run(spec: RunSpec, settings: Settings, environ: Mapping[str, str]) -> NewRun:
    """The run that a specification asks for.

    Args:
        environ: battd's own environment, which the run's variables are set over.

    Raises:
        BadInput: A function, command, directory, interpreter, stage or limit in it cannot be meant.
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
        work = Work(room, limits, stage.function, stage.command or (), stage.shell, stage.allow_children, spec.seed)
        stages.append(NewStage(stage.name, work, tuple(_after(stage, names[:number]))))
    return NewRun(
        spec.name, spec.key, spec.cwd, spec.env, spec.deadline_s, tuple(stages), python=room.python, seed=spec.seed
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
