"""battctl submit: create a run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from batt_supervisor.cli import wait
from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.items import FUNCTION, arguments, parse_json
from batt_supervisor.cli.options import (
    Caller,
    ConfigOption,
    JsonOption,
    SocketOption,
    StateDirOption,
    caller,
    duration,
    size,
)
from batt_supervisor.cli.output import compact, note, number_of, say, shown
from batt_supervisor.cli.place import Flags as PlaceFlags
from batt_supervisor.errors import BadInput, Unreachable
from batt_supervisor.units import format_duration, format_size

if TYPE_CHECKING:
    from batt_supervisor.cli.batch import Batch, Flags
    from batt_supervisor.cli.choose import Choice
    from batt_supervisor.wire import StageSpec

_BEHIND_DASHES = "batt.command"


class _Command(TyperCommand):
    """Keeps the words behind `--` apart, which click would take for further arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_BEHIND_DASHES] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", "[TARGET | -- COMMAND...]"]


def add_to(app: typer.Typer) -> None:
    app.command(cls=_Command)(submit)


def submit(
    ctx: typer.Context,
    *,
    target: Annotated[
        str | None, typer.Argument(help="A function (module.path:function) or a run file (*.toml).", show_default=False)
    ] = None,
    items: Annotated[
        str | None, typer.Option(metavar="FILE", help="One task for each line of FILE; - is standard input.")
    ] = None,
    args: Annotated[
        str | None, typer.Option(metavar="JSON", help="One task: an object by name, an array by position.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run's name [default: from the target].")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Submitting the same again with this key creates nothing and names the run."),
    ] = None,
    unique_name: Annotated[
        bool, typer.Option("--unique-name", help="The same by its name: create nothing if there is a run of it.")
    ] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", "-t", metavar="TIME", help="Limit of each attempt: 20s, 10m, 1h30m.")
    ] = None,
    soft_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Raise SoftTimeout in the task before that.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop what is left of the run after so long.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(min=1, max=1000, metavar="N", help="How often a task is tried.")
    ] = None,
    retry_delay: Annotated[
        str | None, typer.Option(metavar="TIME", help="Pause before the second attempt; doubled each time.")
    ] = None,
    cpu_limit: Annotated[
        str | None, typer.Option(metavar="TIME", help="CPU time of an attempt's whole process tree; 0: no limit.")
    ] = None,
    stall_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="End an attempt that uses no CPU for so long; 0: never.")
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of the tree: 512MiB, 2GiB; 0: no limit.")
    ] = None,
    thread_limit: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Threads and processes of the tree; 0: no limit.")
    ] = None,
    output_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What it may print: 64MiB; 0: no limit.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What an attempt needs: it starts once so much is free. No limit: that is --memory-limit.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Threads and processes it needs. No limit: that is --thread-limit."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Tasks, of any run, that need alike [default: the function or command]."),
    ] = None,
    allow_children: Annotated[
        bool, typer.Option("--allow-children", help="What a task leaves running stays with its worker.")
    ] = False,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Interpreter of functions [default: battd's own].")
    ] = None,
    cwd: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where tasks run and import from [default: here].")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set for the tasks; may be repeated.")
    ] = None,
    shell: Annotated[bool, typer.Option("--shell", help="Give the command to /bin/sh.")] = False,
    count: Annotated[
        int | None,
        typer.Option("--count", "-c", metavar="N", help="The first N items; -N takes N at random, 0 takes all."),
    ] = None,
    at_random: Annotated[int | None, typer.Option("--random", min=1, metavar="N", help="N items at random.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="S", help="Seed the tasks' random generators, and repeat a random choice."),
    ] = None,
    wait_for_it: Annotated[bool, typer.Option("--wait", help="Then do as `battctl wait`.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted; change nothing.")] = False,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Submit a run: a function or command for each item.

    TARGET may also be a run file, with stages and limits of its own; flags win over it.

    A line of the items is one task. For a function it is JSON: an object gives keyword arguments, an array positional
    ones, anything else one argument. For a command it is the text of {item}; a JSON string stands for its value.

    -c and --random choose among the items. Where a stage of a run file has `group_by`, they choose among that
    field's values instead: all items of a chosen value are taken, in every stage with the same group_by. Without --seed
    a random choice has a fresh one, which is printed.

    \b
    Examples:
      battctl submit worker.arc.tasks:score --items samples.jsonl --timeout 20s --max-attempts 2
      battctl submit math:sqrt --args '[2]' --wait
      battctl submit --timeout 10m -- python run_batt.py -i {item} -c 32
      ls *.png | battctl submit --items - --shell -- 'convert {item} -resize 50% small/{item}'
      battctl submit runs/arc.toml -c 32 -t 20s
      battctl submit runs/arc.toml --random 32 --seed 7 --dry-run
    """
    me = caller(ctx, PlaceFlags(socket, state_dir, config), as_json)
    command: tuple[str, ...] | None = ctx.meta.get(_BEHIND_DASHES)
    choice = _choice(count, at_random, seed)
    seconds = {
        "timeout_s": duration("--timeout", timeout),
        "soft_timeout_s": duration("--soft-timeout", soft_timeout),
        "deadline_s": duration("--deadline", deadline),
        "retry_delay_s": duration("--retry-delay", retry_delay),
        "cpu_limit_s": duration("--cpu-limit", cpu_limit, or_none=True),
        "stall_timeout_s": duration("--stall-timeout", stall_timeout, or_none=True),
    }
    if timeout and soft_timeout and (seconds["soft_timeout_s"] or 0) >= (seconds["timeout_s"] or 0):
        raise BadInput(f"--soft-timeout ({soft_timeout}) must be shorter than --timeout ({timeout})")

    from batt_supervisor.cli.batch import Flags

    flags = Flags(
        name=name,
        key=key,
        unique_name=unique_name,
        cwd=cwd,
        env=_environment(env or ()),
        python=python,
        seed=seed,
        max_attempts=max_attempts,
        memory_limit_bytes=size("--memory-limit", memory_limit),
        thread_limit=thread_limit,
        output_limit_bytes=size("--output-limit", output_limit),
        allow_children=allow_children or None,
        need_memory_bytes=size("--memory", memory),
        need_threads=threads,
        kind=kind,
        **seconds,
    )
    batch = _batch(target, command, shell=shell, items=items, args=args, flags=flags, choice=choice)
    if choice is not None and choice.seed is not None and seed is None:
        note(f"chosen at random; --seed {choice.seed} chooses the same again")
    if not dry_run:
        return _send(batch, me, wait_for_it)
    _ask(batch, me)
    return _show(batch, me.json)


def _batch(
    target: str | None,
    command: tuple[str, ...] | None,
    *,
    shell: bool,
    items: str | None,
    args: str | None,
    flags: Flags,
    choice: Choice | None,
) -> Batch:
    """What the command line describes; every combination that cannot be meant is refused here."""
    from batt_supervisor.cli import batch, runfile

    here = Path.cwd()
    if target is not None and command is not None:
        raise BadInput(f"give either the target {target!r} or a command behind --, not both")
    if target is None and command is None:
        raise BadInput("nothing to submit: give module.path:function, a run file (*.toml), or a command behind --")
    if command is not None and not any(command):
        raise BadInput("there is no command behind --")
    if shell and command is None:
        raise BadInput("--shell goes with a command behind --")
    if args is not None and items is not None:
        raise BadInput("--args is one task and --items is one for each line: give one of them")
    if target is not None and target.endswith(".toml"):
        if items is not None or args is not None:
            given = "--items" if items is not None else "--args"
            raise BadInput(f"{given} goes with a function or a command; a run file names its own items")
        path = Path(target)
        return batch.from_file(path, runfile.load(path), flags, here, choice)
    if choice is not None and items is None:
        raise BadInput("-c and --random choose among items: give --items")
    if target is not None and not FUNCTION.fullmatch(target):
        raise BadInput(_no_target(target))
    if command is not None and args is not None:
        raise BadInput("--args goes with a function; write a command's arguments behind --")
    return batch.from_flags(
        function=target,
        command=command or (),
        shell=shell,
        items=items,
        args=_arguments(args),
        flags=flags,
        here=here,
        choice=choice,
    )


def _no_target(target: str) -> str:
    said = f"{target!r} is neither a function (module.path:function) nor a run file (*.toml)"
    if Path(target).exists():
        return f"{said}; a command goes behind --"
    module, dot, name = target.rpartition(".")
    if dot and FUNCTION.fullmatch(f"{module}:{name}"):
        return f"{said}; did you mean '{module}:{name}'?"
    return f"{said}; a command goes behind --"


def _arguments(text: str | None) -> Any:
    if text is None:
        return []
    try:
        return arguments(parse_json(text))
    except ValueError as error:
        raise BadInput(f"--args is not JSON: {error}") from None


def _environment(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals or "\0" in pair:
            raise BadInput(f"--env {pair!r}: write NAME=VALUE")
        found[name] = value
    return found


def _choice(count: int | None, at_random: int | None, seed: int | None) -> Choice | None:
    if count is not None and at_random is not None:
        raise BadInput("-c and --random both choose items: give one of them")
    amount = -at_random if at_random is not None else count or 0
    if amount == 0:
        return None

    from batt_supervisor.cli.choose import Choice

    if amount > 0:
        return Choice(amount)
    return Choice(-amount, seed if seed is not None else random.SystemRandom().randrange(2**32))


def _send(batch: Batch, me: Caller, wait_for_it: bool) -> int:
    with me.client() as client:
        created = client.submit(batch.spec, batch.tasks())
    name = batch.spec.name
    if created.existing:
        if not me.json and not wait_for_it:
            with me.client() as client:
                name = client.run(created.run).name
        under = f"under the key {batch.spec.key!r}" if batch.spec.key is not None else f"by the name {name!r}"
        note(f"run {created.run} has been there {under}; nothing was created")
    if wait_for_it:
        if me.json:
            note(f"run {created.run}")
        return wait.until_ended(me, created.run, None)
    if me.json:
        say(compact({"run": created.run, "tasks": created.tasks} | ({"existing": True} if created.existing else {})))
    else:
        say(f"run {created.run} {name!r}: {number_of(created.tasks, 'task')}; see it with `battctl wait {created.run}`")
    return Exit.OK


def _ask(batch: Batch, me: Caller) -> None:
    """Have battd look for the functions and commands, and at the limits; nothing is created."""
    with me.client() as client:
        try:
            client.check(batch.spec)
        except Unreachable as error:
            note(f"battctl: not asked whether battd would take it: {error}")


def _show(batch: Batch, as_json: bool) -> int:
    """What would be submitted, read to its end, so that broken items are found."""
    spec = batch.spec
    tasks = [0] * len(spec.stages)
    first: list[list[Any]] = [[] for _ in spec.stages]
    for task in batch.tasks():
        tasks[task.stage] += 1
        if len(first[task.stage]) < 3:
            first[task.stage].append(task.args)
    seed = batch.choice.seed if batch.choice else None
    if as_json:
        stages = [
            {"name": stage.name, "tasks": number, "first": args}
            for stage, number, args in zip(spec.stages, tasks, first, strict=True)
        ]
        whole = {"dry_run": True, "spec": spec.model_dump(), "tasks": sum(tasks), "seed": seed, "stages": stages}
        say(compact(whole))
        return Exit.OK
    deadline = f", deadline {format_duration(spec.deadline_s)}" if spec.deadline_s else ""
    say(f"would submit {spec.name!r}: {number_of(sum(tasks), 'task')}{deadline}, in {spec.cwd}")
    if spec.env:
        say("  environment: " + " ".join(sorted(spec.env)) + " (values not shown)")
    if spec.python:
        say(f"  interpreter: {spec.python}")
    if spec.seed is not None:
        say(f"  seed: {spec.seed}")
    for stage, number, samples in zip(spec.stages, tasks, first, strict=True):
        work = stage.function or " ".join(stage.command or ())
        told = ", ".join(_told(stage))
        say(f"  stage {stage.name}: {number_of(number, 'task')} of {work}" + (f" ({told})" if told else ""))
        for args in samples:
            say(f"    {shown(args)}")
        if number > len(samples):
            say(f"    ... and {number - len(samples)} more")
    return Exit.OK


def _told(stage: StageSpec) -> Iterator[str]:
    """What is said of a stage's attempts; 0 is no limit."""
    for label, seconds in (
        ("timeout", stage.timeout_s),
        ("soft timeout", stage.soft_timeout_s),
        ("CPU limit", stage.cpu_limit_s),
        ("stall timeout", stage.stall_timeout_s),
    ):
        if seconds is not None:
            yield f"{label} {format_duration(seconds)}" if seconds else f"no {label}"
    for label, size_bytes in (("memory limit", stage.memory_limit_bytes), ("output limit", stage.output_limit_bytes)):
        if size_bytes is not None:
            yield f"{label} {format_size(size_bytes)}" if size_bytes else f"no {label}"
    if stage.thread_limit is not None:
        yield f"thread limit {stage.thread_limit}" if stage.thread_limit else "no thread limit"
    if stage.need_memory_bytes:
        yield f"needs {format_size(stage.need_memory_bytes)} of memory"
    if stage.need_threads:
        yield f"needs {number_of(stage.need_threads, 'thread')}"
    if stage.kind is not None:
        yield f"kind {stage.kind}"
    if stage.allow_children:
        yield "children may stay"
    if stage.max_attempts is not None:
        yield f"max attempts {stage.max_attempts}"
    if stage.after:
        yield "after " + ", ".join(stage.after)
