"""battctl's entry: the commands, and what becomes of every error."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from batt_supervisor import __version__
from batt_supervisor.cli import (
    backup,
    check,
    control,
    doctor,
    events,
    headroom,
    inspect_task,
    prune,
    results,
    status,
    submit,
    version,
    wait,
)
from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import Caller, ConfigOption, JsonOption, SocketOption, StateDirOption
from batt_supervisor.cli.output import compact, note, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.errors import BadInput, BattError, nearest

# Typer carries its own copy of click in newer versions; either way this is the root of its usage errors.
_UsageProblem: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


_UNKNOWN_COMMAND = re.compile("no such command '(.*?)'")


class _Ended(Exception):
    """Passes a Ctrl-C or a closed pipe by Typer, which has exit codes of its own for them."""

    def __init__(self, code: Exit) -> None:
        super().__init__(code)
        self.code = code


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _Ended(Exit.PIPE_CLOSED) from None
        except KeyboardInterrupt:
            raise _Ended(Exit.INTERRUPTED) from None


# Plain help: it is not cut at the terminal's width, can be searched, and spares `--help` the import of rich.
app = typer.Typer(
    name="battctl",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def _everything(
    ctx: typer.Context,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print battctl's version.")
    ] = False,
) -> None:
    """Submit work to battd, watch it, and fetch its results.

    \b
    Examples:
      battctl submit worker.arc.tasks:score --items samples.jsonl --timeout 20s
      battctl wait r7 && battctl results r7 --jsonl
      battctl status
      battctl why t12

    The options below may stand before or behind the command. Exit codes: docs/exit-codes.md.
    """
    ctx.obj = Caller(Flags(socket, state_dir, config), as_json)


submit.add_to(app)
status.add_to(app)
wait.add_to(app)
results.add_to(app)
inspect_task.add_to(app)
events.add_to(app)
headroom.add_to(app)
control.add_to(app)
prune.add_to(app)
doctor.add_to(app)
check.add_to(app)
backup.add_to(app)
version.add_to(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    as_json = _wants_json(arguments)
    try:
        code = app(args=list(arguments), prog_name="battctl", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except BattError as error:
        _complain(str(error), error.code, as_json)
        return error.exit_code
    except _Ended as ended:
        if ended.code is Exit.PIPE_CLOSED:
            _close_output()
        return ended.code
    except BrokenPipeError:
        _close_output()
        return Exit.PIPE_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except _UsageProblem as problem:
        return _usage(problem, as_json)
    except Exception:
        # Not left to Python, whose exit code 1 means that a task has failed.
        import traceback

        traceback.print_exc()
        note("battctl: this is a defect of battctl; please report it with the lines above")
        return Exit.INTERNAL


def _usage(problem: Any, as_json: bool) -> int:
    if type(problem).__name__ == "NoArgsIsHelpError":
        if text := problem.format_message():
            note(text)
        return Exit.BAD_INPUT
    sentence = str(problem.format_message()).rstrip(".")
    sentence = sentence[:1].lower() + sentence[1:]
    if (unknown := _UNKNOWN_COMMAND.match(sentence)) and "mean" not in sentence:  # older versions of Typer do not
        sentence += nearest(
            unknown[1], [command.callback.__name__ for command in app.registered_commands if command.callback]
        )
    ctx = getattr(problem, "ctx", None)
    path = ctx.command_path if ctx is not None else "battctl"
    _complain(f"{sentence} (see `{path} --help`)", BadInput.code, as_json)
    return Exit.BAD_INPUT


def _complain(sentence: str, code: str, as_json: bool) -> None:
    sentence = " ".join(sentence.split())
    note(f"battctl: {sentence}")
    if as_json:
        note(compact({"error": code, "message": sentence}))


def _wants_json(arguments: Sequence[str]) -> bool:
    own = list(arguments)
    if "--" in own:
        own = own[: own.index("--")]
    return "--json" in own or "--jsonl" in own


def _close_output() -> None:
    # Python flushes standard output once more at its end, and would complain of the closed pipe.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())


def main() -> None:
    """Console script `battctl`."""
    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
