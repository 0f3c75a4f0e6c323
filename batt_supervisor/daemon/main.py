"""The program battd: reads its settings, takes its state directory, starts its threads, loops until told to stop."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import resource
import signal
import socket
import sys
import time
import traceback
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import pebble
import structlog
import typer

from batt_supervisor import __version__
from batt_supervisor.api.app import create_app
from batt_supervisor.api.server import Server, bind, gid_of
from batt_supervisor.api.service import Service
from batt_supervisor.clock import SystemClock
from batt_supervisor.config import RELOADABLE, Settings, load
from batt_supervisor.core.model import Room
from batt_supervisor.core.needs import Needs
from batt_supervisor.daemon import faults, logs, recover, room, threads
from batt_supervisor.daemon.describe import describe, report
from batt_supervisor.daemon.gate import Gate
from batt_supervisor.daemon.loop import Loop
from batt_supervisor.daemon.notify import Notifier
from batt_supervisor.daemon.orphans import Orphans
from batt_supervisor.daemon.outbox import RETRY_S
from batt_supervisor.daemon.statedir import StateDir, hold
from batt_supervisor.errors import BadConfiguration, BattError, StoreDamaged, StoreUnavailable
from batt_supervisor.headroom.ledger import Ledger
from batt_supervisor.headroom.machine import MachineHeadroom
from batt_supervisor.pool.crew import Crew
from batt_supervisor.pool.crew import Settings as CrewSettings
from batt_supervisor.pool.group import Groups
from batt_supervisor.pool.nursery import Places
from batt_supervisor.pool.nursery import Settings as NurserySettings
from batt_supervisor.pool.single import LOOK_S
from batt_supervisor.store import Store, trouble, values

log = structlog.get_logger("battd")

PR_SET_CHILD_SUBREAPER = 36


class Daemon:
    """battd, put together. `run` returns when it has drained."""

    def __init__(self, settings: Settings, config: Path | None, flags: dict[str, Any]) -> None:
        self._config, self._flags = config, flags
        self._settings = settings
        self._faults = faults.read(os.environ)
        self._clock = self._faults.clock(SystemClock())
        self._started_ms = self._clock.read().wall_ms
        if settings.socket_group:
            gid_of(settings.socket_group)  # said before anything is done; the socket itself comes when there is room
        self._state: StateDir = hold(settings.state_dir, settings.socket)
        self._notifier = Notifier(os.environ)
        self._store = self._open()
        self._store.writer.on_point = self._faults.point
        self._own_reader = self._store.reader()
        self._orphans = Orphans(self._settings.state_dir, self._own_reader.files_needed)
        self._threads = threads.Crewmen(self._faults.point)
        self._reload_asked = False
        self._nofile = _raise_open_files(settings.slots)
        self._groups = Groups.find(settings.cgroup_root, f"batt-{self._state.token}")
        # Looked up behind that: on cgroup v2 it may have moved this process.
        self._headroom = MachineHeadroom(keep_s=0.0, cgroup_root=settings.cgroup_root)  # the gate knows when
        self._ledger = Ledger.open(settings.ledger, str(settings.state_dir))
        log.info("ends process trees", by=self._groups.describe())

    def run(self) -> None:
        # How long pebble's threads wait for a message before they see whether their pool still lives, 0.1 s unless
        # told otherwise. Nothing else here depends on it, and an idle battd should sleep.
        pebble.CONSTS.sleep_unit = LOOK_S
        # Orphans of dead workers become battd's own children, so that they can be found and ended.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._faults.point("boot")
        recover.end_left_processes(self._store, self._state, self._groups)
        room.make_small()
        try:
            slots, listener = self._find_room()
        except BaseException:
            self._groups.close()  # nothing was started, and no other battd may come here
            raise
        self._threads.start("writer", self._store.writer.run)
        left, unavailable = self._recover()
        self._orphans.begin(time.monotonic())
        self._note("started", f"battd {__version__}, pid {os.getpid()}")
        clock = self._clock
        now = clock.read()
        crew = Crew(self._places(), self._crew_settings(), self._groups, slots, Room("/"), now.mono_s)
        self._threads.start("builder", crew.builder.run)
        self._threads.start("reaper", crew.reaper.run)
        gate = Gate(self._headroom, self._ledger, self._settings, self._needs(), now)
        loop = Loop(
            self._store,
            crew,
            gate,
            clock,
            self._settings,
            slots,
            self._faults.point,
            damaged=self._note_damage,
            folder=self._state.path,
        )
        if unavailable is not None:
            loop.begin_with(left, unavailable)
        service = self._service(loop)

        def committed(run_ids: set[int]) -> None:
            loop.touched(run_ids)
            service.changed(run_ids)

        self._store.writer.on_commit = committed
        server = Server(create_app(service), listener, service.begin)
        self._threads.start("api", server.run)
        self._handle_signals(loop)
        watched = [
            threads.Watched("writer", lambda: self._store.writer.beat_s),
            threads.Watched("api", lambda: server.beat_s),
        ]
        all_watched = threads.Watchdog([threads.Watched("loop", lambda: loop.beat_s), *watched], clock.read().mono_s)
        server.watch = lambda: all_watched.look(self._settings.watchdog)
        watchdog = threads.Watchdog(watched, clock.read().mono_s)
        for name in self._settings.preload:
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                # Not an error: it may lie in a run's own directory. Each worker's log says so, too.
                log.warning("a module to preload is not installed here", module=name)
        # What is there now stays: a collection that walks through all modules each time would be for nothing.
        gc.collect()
        gc.freeze()
        self._notifier.send(f"READY=1\nSTATUS=serving {self._settings.socket}")
        log.info("ready", version=__version__, pid=os.getpid(), socket=str(self._settings.socket), slots=slots)
        try:
            self._faults.point("loop")
            loop.run(lambda: self._round(loop, crew, watchdog))
        except Exception:
            threads.give_up(f"{traceback.format_exc()}the loop ended by an error")
        self._close(loop, crew, server, service)

    def _find_room(self) -> tuple[int, socket.socket]:
        """Wait for room; how many slots there is room for, and the socket that is served from now on."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))  # there is nothing to drain yet
        slots = room.wait(self._headroom, self._ledger, self._settings, self._tell_of_waiting)
        return slots, bind(self._settings.socket, self._settings.socket_group)

    def _open(self) -> Store:
        """Open the store, once what keeps it from being opened has gone: a full disk, another process's lock.

        A service manager that has started battd some times in vain would leave it at that.
        """
        said = ""
        while True:
            try:
                return Store(self._state.database, synchronous=self._settings.synchronous.upper(), clock=self._clock)
            except StoreUnavailable as error:
                if not trouble.may_pass(error):
                    raise
                if said != (said := str(error)):
                    log.error("waits for the store", reason=said)
                self._notifier.send(f"STATUS=waits for the store: {said}\nEXTEND_TIMEOUT_USEC=30000000")
            time.sleep(RETRY_S)

    def _recover(self) -> tuple[list[values.Settlement], StoreUnavailable | None]:
        """Write off what an earlier battd has left; what could not be, and why the store does not work, if so."""
        ends: list[values.Settlement] = []
        try:
            self._look_for_damage()
            ends = recover.ends_of_left(self._store)
        except StoreDamaged as error:
            return ends, error  # what can be read of it is served, and nothing starts
        try:
            recover.write_off(self._store, ends, self._settings.watchdog, self._faults.point)
        except TimeoutError:
            threads.give_up("the writer does not answer")
        except StoreUnavailable as error:
            return ends, error
        return [], None

    def _look_for_damage(self) -> None:
        """Read all of a database that an earlier battd has found damaged: it may have been repaired or replaced.

        Raises:
            StoreDamaged: It has not.
        """
        if not self._state.damaged.exists():
            return
        log.warning("checks the database, which was found damaged", note=str(self._state.damaged))
        if said := self._store.damage():
            raise StoreDamaged(said)
        self._state.damaged.unlink()
        log.info("the database is sound")

    def _note_damage(self, said: str) -> None:
        """Leave a note, so that no later battd starts anything on it unchecked."""
        try:
            self._state.damaged.write_text(f"{said}\n", encoding="utf-8")
        except OSError as error:
            log.error("no note of the damage could be left", path=str(self._state.damaged), reason=error.strerror)

    def _note(self, event: str, reason: str) -> None:
        """Have an event of the service written; nobody waits for it."""
        self._store.writer.submit(lambda tx: tx.note(event, reason))

    def _tell_of_waiting(self, reason: str) -> None:
        self._notifier.send(f"STATUS=waits for room to start: {reason}\nEXTEND_TIMEOUT_USEC=30000000")

    def _needs(self) -> Needs:
        with closing(self._store.reader()) as reader, suppress(StoreDamaged):  # the loop says so
            return Needs(reader.kinds())
        return Needs()

    def _round(self, loop: Loop, crew: Crew, watchdog: threads.Watchdog) -> None:
        """Once a tick: what is the process's own business, not the queue's."""
        watchdog.look(self._settings.watchdog)
        self._notifier.alive(loop.beat_s)
        self._orphans.tick(loop.beat_s)
        if self._reload_asked:
            self._reload_asked = False
            self._reload(loop, crew)

    def _reload(self, loop: Loop, crew: Crew) -> None:
        try:
            fresh = load(os.environ, self._config, self._flags)
        except BattError as error:
            log.error("not reloaded, the settings in force stay", reason=str(error))
            return
        changed = {key for key in Settings.model_fields if getattr(fresh, key) != getattr(self._settings, key)}
        for key in sorted(changed - RELOADABLE):
            log.warning("changed, but needs a restart", key=key)
        update = {key: getattr(fresh, key) for key in changed & RELOADABLE}
        self._settings = self._settings.model_copy(update=update)
        logs.configure(self._settings.log_level, self._settings.log_format)
        before, crew.settings = crew.settings, self._crew_settings()
        if crew.settings.nursery != before.nursery:
            crew.renew_all()
        loop.reload(self._settings)
        log.info("reloaded", changed=sorted(update))

    def _handle_signals(self, loop: Loop) -> None:
        def drain(number: int, frame: object) -> None:
            self._notifier.send("STOPPING=1")
            loop.drain()

        def reload(number: int, frame: object) -> None:
            self._reload_asked = True
            loop.nudge()

        signal.signal(signal.SIGTERM, drain)
        signal.signal(signal.SIGINT, drain)
        signal.signal(signal.SIGHUP, reload)

    def _places(self) -> Places:
        return Places(
            logs=self._state.logs,
            results=self._state.results,
            token=self._state.token,
            socket=str(self._settings.socket),
            value_max=self._settings.max_result_bytes,
        )

    def _crew_settings(self) -> CrewSettings:
        settings = self._settings
        nursery = NurserySettings(
            preload=settings.preload,
            environ=dict(os.environ),
            spawn=settings.start_method == "spawn",
            memory_max=settings.max_worker_memory,
        )
        return CrewSettings(settings.boot_timeout, self._nofile, nursery)

    def _service(self, loop: Loop) -> Service:
        return Service(
            store=self._store,
            settings=lambda: self._settings,
            run_changed=loop.run_changed,
            stop_asked=loop.stop_asked,
            headroom=lambda: report(self._settings, loop.snapshot),
            total=lambda: loop.snapshot.total,
            describe=lambda: describe(self._settings, loop.snapshot, self._started_ms, self._groups.describe()),
            holds=lambda: loop.snapshot.holds,
            lines=lambda: loop.snapshot.lines,
            draining=lambda: loop.snapshot.draining,
            prune_asked=loop.prune_asked,
            removing=loop.removing,
            store_failed=loop.store_failed,
            trouble=loop.store_hold,
            writing=lambda: loop.snapshot.writing,
            logs=self._state.logs,
            results=self._state.results,
        )

    def _close(self, loop: Loop, crew: Crew, server: Server, service: Service) -> None:
        """Take everything down in the order in which it depends on each other."""
        self._threads.leaving = True
        with suppress(OSError):  # gone, or of a file system that takes no writes; nobody listens there any more
            self._settings.socket.unlink()
        service.leave()
        server.stop()
        crew.close()
        self._note("stopped", f"battd {__version__}, pid {os.getpid()}, has drained")
        self._store.writer.stop()
        left = self._threads.join(15.0)
        if not crew.wait(5.0):
            log.warning("processes of workers still running at the end")
        loop.close()
        self._headroom.close()
        self._ledger.close()
        if left:
            log.warning("threads still running at the end", threads=left)
        else:
            service.close()
            self._own_reader.close()
            self._store.close()  # the last of its connections: SQLite folds the write-ahead log in with that
        self._state.close()
        log.info("drained")


FILES: Final = 220
"""Descriptors that battd has beside those of its slots: the store, clients, nurseries, readings of every enclosing
control group (some 60 at six levels), the ledger (up to 67)."""

SLOT_FILES: Final = 18
"""Descriptors of one slot: four ends of pipes, three counts of its control group, its worker's exit pipe, pidfd and
log; and of one that is replaced."""


def _raise_open_files(slots: int) -> tuple[int, int]:
    """Raise the soft limit of open files to the hard one; what it was, for workers to have.

    Programs that use select() cannot have descriptors above 1023: tasks keep the old limit.

    Raises:
        BadConfiguration: So many slots can never work here.
    """
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES + SLOT_FILES * (slots + 1)
    if before[1] != resource.RLIM_INFINITY and before[1] < needed:
        limit = f"the hard limit is {before[1]} (ulimit -Hn)"
        raise BadConfiguration(f"slots: {slots} slots need {needed} open files, {limit}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def battd(
    config: Annotated[Path | None, typer.Option(help="TOML file with settings (BATT_CONFIG).")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where everything is kept (BATT_STATE_DIR).")] = None,
    socket: Annotated[Path | None, typer.Option(help="The unix socket to serve (BATT_SOCKET).")] = None,
    slots: Annotated[
        int | None, typer.Option(help="Attempts at once; default: the cores this process may use.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Serve batches of tasks in the foreground, logging to standard error. SIGTERM drains, SIGHUP reloads.

    Example: battd --state-dir ~/.local/state/batt --slots 4
    """
    if version:
        print(__version__)
        return
    flags = {"state_dir": state_dir, "socket": socket, "slots": slots, "log_level": log_level}
    given = {key: value for key, value in flags.items() if value is not None}
    settings = load(os.environ, config, given)
    logs.configure(settings.log_level, settings.log_format)
    Daemon(settings, config, given).run()


def main() -> None:
    """Entry point: errors become one sentence and a documented exit code (docs/exit-codes.md)."""
    try:
        app(standalone_mode=False)
    except BattError as error:
        sys.exit(_told(str(error), error.exit_code))
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is None:
            raise
        sys.exit(_told(shown(), 2))


def _told(sentence: str, code: int) -> int:
    print(f"battd: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
