"""battctl version."""

from __future__ import annotations

import platform
from typing import Any

import typer

from batt_supervisor import __version__
from batt_supervisor.cli.exits import Exit
from batt_supervisor.cli.options import Caller, ConfigOption, JsonOption, SocketOption, StateDirOption, caller
from batt_supervisor.cli.output import document, say
from batt_supervisor.cli.place import Flags
from batt_supervisor.errors import BattError


def add_to(app: typer.Typer) -> None:
    app.command()(version)


def version(
    ctx: typer.Context,
    *,
    socket: SocketOption = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Print the versions of battctl and battd.

    \b
    Examples:
      battctl version
      battctl version --json
    """
    me = caller(ctx, Flags(socket, state_dir, config), as_json)
    service, why_not = _battd(me)
    theirs = service.get("version")
    if me.json:
        document({"battctl": __version__, "python": platform.python_version(), "battd": theirs, "problem": why_not})
        return Exit.OK
    say(f"battctl {__version__} (Python {platform.python_version()})")
    if theirs is None:
        say(f"battd not reached: {why_not}")
        return Exit.OK
    say(f"battd   {theirs} (pid {service.get('pid')}, {me.place.socket})")
    if theirs != __version__:
        say("the two differ: restart battd after an upgrade, or use the battctl that came with it")
    return Exit.OK


def _battd(me: Caller) -> tuple[dict[str, Any], str | None]:
    if not _may_exist(me):
        return {}, f"{me.place.socket} does not exist"
    try:
        with me.client() as client:
            return client.service_raw(), None
    except BattError as error:
        return {}, str(error)


def _may_exist(me: Caller) -> bool:
    # Spares the import of the HTTP client, most of this command's time, where no battd can be.
    try:
        return me.place.socket.exists()
    except OSError:
        return True
