"""Fakes of the seams that battd is built on, and a harness around a real battd. Used by our tests, shipped for yours.

Nothing here needs a test framework: what goes wrong is an AssertionError, or `DaemonEnded`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import psutil

from batt_supervisor.cli.items import arguments
from batt_supervisor.client import Client
from batt_supervisor.clock import Now
from batt_supervisor.core.headroom import Limit, Reading, Resource
from batt_supervisor.core.lifecycle import OPEN, State
from batt_supervisor.core.limits import Sample
from batt_supervisor.core.model import Room, Space, WorkerId
from batt_supervisor.core.world import SlotPhase, SlotView
from batt_supervisor.errors import Unreachable
from batt_supervisor.pool import cgroupfs, kill, nursery, proc
from batt_supervisor.pool.protocol import Exit, Request, SlotStatus
from batt_supervisor.wire import AttemptInfo, RunInfo, RunSpec, StageSpec, TaskResult, TaskSpec

T = TypeVar("T")

PATIENCE_S: Final = 60.0
"""How long a state is waited for: far longer than it takes on the slowest machine."""

_LOOK_S: Final = 0.01


def eventually(what: str, seen: Callable[[], T], *, within_s: float = PATIENCE_S) -> T:
    """Look until `seen()` is true, and return what it gave.

    Raises:
        AssertionError: It was not within `within_s` seconds; says `what` was waited for.
    """
    until_s = time.monotonic() + within_s
    while not (found := seen()):
        if time.monotonic() > until_s:
            raise AssertionError(f"not seen within {within_s:g} s: {what}")
        time.sleep(_LOOK_S)
    return found


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, mono_s: float = 1000.0, wall_ms: int = 1_700_000_000_000) -> None:
        self._now = Now(mono_s, wall_ms, mono_s)

    def read(self) -> Now:
        return self._now

    def advance(self, seconds: float) -> Now:
        """Let time pass, on all clocks."""
        now = self._now
        self._now = Now(now.mono_s + seconds, now.wall_ms + round(seconds * 1000), now.boot_s + seconds)
        return self._now

    def set_wall(self, by_s: float) -> Now:
        """Set the wall clock, and no other."""
        self._now = replace(self._now, wall_ms=self._now.wall_ms + round(by_s * 1000))
        return self._now

    def suspend(self, seconds: float) -> Now:
        """Let the host sleep: the monotonic clock stands still, the others go on."""
        now = self._now
        self._now = replace(now, wall_ms=now.wall_ms + round(seconds * 1000), boot_s=now.boot_s + seconds)
        return self._now


class FixedHeadroom:
    """A machine that has what it is said to have.

    Attributes:
        reading: What `read` gives; use `set` to change it.
    """

    def __init__(self, memory_bytes: int = 8 * 2**30, threads: int = 10_000) -> None:
        self._total = Space(16 * 2**30, 32_768)
        self._free = Space(memory_bytes, threads)
        self.reading = self._read()

    def set(self, *, memory_bytes: int | None = None, threads: int | None = None) -> None:
        """Change what is free; what is None stays as it is."""
        before = self._free
        self._free = Space(
            before.memory_bytes if memory_bytes is None else memory_bytes,
            before.threads if threads is None else threads,
        )
        self.reading = self._read()

    def _read(self) -> Reading:
        total, used, source = self._total, self._total - self._free, "FixedHeadroom"
        memory = Limit(Resource.MEMORY, "memory of the test", source, total.memory_bytes, used.memory_bytes)
        return Reading((memory, Limit(Resource.THREADS, "threads of the test", source, total.threads, used.threads)))

    def read(self, now_s: float) -> Reading:
        return self.reading

    def close(self) -> None:
        """Nothing is held open."""


class _FakeSlot:
    def __init__(self, slot_id: int, room: Room) -> None:
        self.id = slot_id
        self.phase = SlotPhase.IDLE
        self.room = room
        self.served = 0
        self.renewed = 0
        self.spent = ""
        self.room_since_s = 0.0
        self.trouble = ""
        self.pack: deque[Request] = deque()
        self.called: dict[int, float] = {}
        self.returned: dict[int, float] = {}

    def view(self) -> SlotView:
        return SlotView(self.id, self.phase, self.room, self.served, self.room_since_s, self.spent)


class FakePool:
    """A `pool.protocol.Pool` in memory: attempts end when, and as, the test says.

    Attributes:
        sent: Every request that was sent, with its slot, in order.
        ended: Serials whose end was ordered while they were their slot's current attempt.
        asked: Serials whose stacks were asked for.
        refused: What `refusals` gives.
        samples: What `sample` gives, by serial; absent: nothing.
        renewed: (slot, room) of every renewal that was ordered.
        boots: Whether a renewed slot is idle again at once; otherwise `boot` makes it so.
    """

    def __init__(self, width: int = 2, room: Room | None = None, *, boots: bool = True) -> None:
        self.sent: list[tuple[int, Request]] = []
        self.refused = 0
        self.ended: list[int] = []
        self.asked: list[int] = []
        self.samples: dict[int, Sample] = {}
        self.renewed: list[tuple[int, Room]] = []
        self.boots = boots
        self._room = room or Room("/")
        self._slots: dict[int, _FakeSlot] = {}
        self._exits: list[Exit] = []
        self._moved = True
        self.resize(width, 0.0)

    # What the test says

    def current(self, serial: int | None = None) -> tuple[int, Request]:
        """Slot and request of an attempt that is its slot's current one: the oldest, or the one named."""
        held = [(number, slot.pack[0]) for number, slot in self._slots.items() if slot.pack]
        found = [one for one in held if serial in (None, one[1].serial)]
        assert found, f"no slot is at attempt {serial}; they are at {[one[1].serial for one in held]}"
        return min(found, key=lambda one: one[1].serial)

    def packs(self) -> dict[int, list[int]]:
        """Serials of what each busy slot has in hand, the current one first."""
        return {slot.id: [request.serial for request in slot.pack] for slot in self._slots.values() if slot.pack}

    def call(self, serial: int, at_s: float) -> None:
        """Its worker has called the attempt's function."""
        self._slots[self.current(serial)[0]].called[serial] = at_s

    def give_back(self, serial: int, at_s: float) -> None:
        """The attempt's function has returned, and its worker is about to write the result to the disk."""
        self._slots[self.current(serial)[0]].returned[serial] = at_s

    def finish(self, serial: int | None = None, value: object = None, **report: Any) -> Request:
        """End a slot's current attempt with a report: `ok` and a value unless `report` says otherwise."""
        slot_id, request = self.current(serial)
        slot = self._slots[slot_id]
        slot.pack.popleft()
        slot.served += 1
        told = {"outcome": "ok", "value": json.dumps(value), "wall_s": 0.0001, "cpu_s": 0.0001} | report
        self._exits.append(Exit(slot_id, request.serial, told, called_s=slot.called.get(request.serial)))
        self._rest(slot)
        return request

    def crash(self, serial: int | None = None, exit_code: int = -9, *, begun: bool = True) -> Request:
        """Let the worker of a slot's current attempt die; what it had not begun is handed back."""
        slot_id, request = self.current(serial)
        slot = self._slots[slot_id]
        slot.pack.popleft()
        called_s = slot.called.get(request.serial)
        self._exits.append(Exit(slot_id, request.serial, None, exit_code=exit_code, called_s=called_s, begun=begun))
        self._exits += [Exit(slot_id, other.serial, None, requeue=True) for other in slot.pack]
        slot.pack.clear()
        slot.renewed, slot.served = slot.renewed + 1, 0
        self._rest(slot)
        return request

    def hand_back(self, serial: int | None = None) -> Request:
        """Let the worker of a slot's current attempt die before it has taken that up."""
        slot_id, request = self.current(serial)
        slot = self._slots[slot_id]
        slot.pack.popleft()
        self._exits.append(Exit(slot_id, request.serial, None, exit_code=-9, begun=False, requeue=True))
        self._rest(slot)
        return request

    def boot(self, slot_id: int) -> None:
        """The slot's new worker is there."""
        slot = self._slots[slot_id]
        slot.phase, slot.trouble, self._moved = SlotPhase.IDLE, "", True

    def break_slot(self, slot_id: int, trouble: str) -> None:
        """The slot is not there until `boot` is called for it."""
        slot = self._slots[slot_id]
        slot.phase, slot.trouble, self._moved = SlotPhase.BOOTING, trouble, True

    def _rest(self, slot: _FakeSlot) -> None:
        if not slot.pack:
            slot.phase, self._moved = SlotPhase.IDLE, True

    # protocol.Pool

    def descriptors(self) -> Sequence[int]:
        return []

    def poll(self, now_s: float, ready: Container[int]) -> list[Exit]:
        exits, self._exits = self._exits, []
        return exits

    def slots(self) -> Sequence[SlotView]:
        return [slot.view() for slot in self._slots.values() if not slot.trouble]

    def slot(self, slot_id: int) -> SlotView | None:
        slot = self._slots.get(slot_id)
        return slot.view() if slot and not slot.trouble else None

    def moved(self) -> bool:
        moved, self._moved = self._moved, False
        return moved

    def status(self) -> Sequence[SlotStatus]:
        return [SlotStatus(slot.view(), 1000 + slot.id, slot.renewed, slot.trouble) for slot in self._slots.values()]

    def bad_rooms(self, now_s: float) -> Mapping[Room, str]:
        return {}

    def refusals(self) -> int:
        return self.refused

    def trouble(self) -> str:
        return next((slot.trouble for slot in self._slots.values() if slot.trouble), "")

    def worker(self, slot_id: int) -> WorkerId | None:
        return WorkerId(1000 + slot_id, 1, f"worker-{slot_id}.log")

    def send(self, slot_id: int, requests: Sequence[Request]) -> None:
        slot = self._slots[slot_id]
        assert slot.phase is SlotPhase.IDLE, f"slot {slot_id} is {slot.phase}"
        assert not slot.pack
        slot.phase = SlotPhase.BUSY
        slot.pack.extend(requests)
        self.sent += [(slot_id, request) for request in requests]

    def called(self, slot_id: int, serial: int) -> float | None:
        return self._slots[slot_id].called.get(serial)

    def returned(self, slot_id: int, serial: int) -> float | None:
        return self._slots[slot_id].returned.get(serial)

    def sample(self, slot_id: int, serial: int, memory_limit: int | None) -> Sample | None:
        return self.samples.get(serial)

    def ask_stacks(self, slot_id: int, serial: int) -> None:
        self.asked.append(serial)

    def take_back(self, slot_id: int) -> None:
        pack = self._slots[slot_id].pack
        while len(pack) > 1:
            self._exits.append(Exit(slot_id, pack.pop().serial, None, requeue=True))

    def end(self, slot_id: int, serial: int) -> None:
        slot = self._slots[slot_id]
        if slot.pack and slot.pack[0].serial == serial:
            self.ended.append(serial)
            self.crash(serial)

    def distrust(self) -> None:
        pass

    def renew(self, slot_id: int, room: Room) -> None:
        slot = self._slots[slot_id]
        assert slot.phase is SlotPhase.IDLE, f"slot {slot_id} is {slot.phase}"
        self.renewed.append((slot_id, room))
        slot.room, slot.served, slot.spent, slot.renewed = room, 0, "", slot.renewed + 1
        slot.phase, self._moved = SlotPhase.IDLE if self.boots else SlotPhase.BOOTING, True

    def resize(self, width: int, now_s: float) -> None:
        for slot_id in range(width + 1):
            self._slots.setdefault(slot_id, _FakeSlot(slot_id, self._room))
        for slot_id in [number for number, slot in self._slots.items() if number > width and not slot.pack]:
            del self._slots[slot_id]
        self._moved = True

    def close(self) -> None:
        self._slots.clear()


class DaemonEnded(AssertionError):
    """battd ended where it should have served; `code` is its exit code."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"battd ended with exit code {code}:\n{log[-4000:]}")
        self.code = code


class Daemon:
    """A real battd in a process of its own, on a state directory of its own, as often started as the test wants.

    Use it as a context manager: whatever happens, nothing is left running.

    Args:
        home: A folder for its state directory, configuration and log.
        config: Text of its configuration file; without it, it gets none.
        env: Variables set over this process's own; its BATT_ variables are never passed on.
        python_path: Folders that battd's PYTHONPATH has first: where its tasks are found.
        slots: Its flag `--slots`; None where the configuration says it.
        python: The interpreter; where it is not this process's own, `env` gives the whole PYTHONPATH.
        user: The id that it runs under, of user and group alike, in no other group; only root may choose. `home` and
            its socket's folder are given to it.
        cgroups: Folders of control groups that it is put into before it starts.
        before: Shell commands that its process makes before it becomes battd: "ulimit -v 1048576".
        ledger: The folder of its ledger; None for one of its own, so that no other battd of this user counts.

    Attributes:
        env: As given; what is changed holds from the next `start`.
        config: Path of the configuration file; see `configure`.
    """

    def __init__(
        self,
        home: Path,
        *,
        config: str = "",
        env: Mapping[str, str] | None = None,
        python_path: Sequence[Path | str] = (),
        slots: int | None = 2,
        python: str = sys.executable,
        user: int | None = None,
        cgroups: Sequence[Path] = (),
        before: str = "",
        ledger: Path | None = None,
    ) -> None:
        self.home = home
        self.state_dir = home / "state"
        self.config = home / "battd.toml"
        self.env = dict(env or {})
        self.slots = slots
        self.user = user
        self.cgroups = tuple(cgroups)
        self.before = before
        self.ledger = ledger or home / "ledger"
        self._python = python
        self._python_path = [*map(str, python_path), nursery.ROOT]
        # A unix socket's path has at most 107 bytes, and `home` may be deep.
        self._socket_dir = Path(tempfile.mkdtemp(prefix="batt-"))
        self.socket = self._socket_dir / "s"
        self._log = home / "battd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        self._token = ""
        self.configure(config)
        if user is not None:
            for folder in (home, self._socket_dir):
                os.chown(folder, user, user)

    # Its life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def configure(self, text: str) -> None:
        """Write the configuration file; battd reads it when it starts, or on SIGHUP."""
        self.config.write_text(text, encoding="utf-8")

    def arguments(self) -> list[str]:
        """The command line that it is started with."""
        words = [self._python, "-m", "batt_supervisor.daemon.main"]
        words += ["--config", str(self.config), "--state-dir", str(self.state_dir), "--socket", str(self.socket)]
        return words if self.slots is None else [*words, "--slots", str(self.slots)]

    def environment(self) -> dict[str, str]:
        """The environment that it is started with, which leads battctl to it, too."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BATT_")}
        ours = {"BATT_SOCKET": str(self.socket), "BATT_LEDGER": str(self.ledger)}
        return {**kept, "PYTHONPATH": os.pathsep.join(self._python_path), **ours, **self.env}

    def launch(self) -> None:
        """Start it, without waiting for anything."""
        assert self._process is None or self._process.poll() is not None, "battd is running already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._entrance(), *self.arguments()],
                env=self.environment(),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )

    def _entrance(self) -> list[str]:
        """Words that put the process into its control groups and limits, and that battd then takes the place of."""
        if not self.cgroups and not self.before:
            return []
        enter = 'until [ "$1" = -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift'
        script = "\n".join(filter(None, ("set -e", enter, self.before, 'exec "$@"')))
        return ["/bin/sh", "-c", script, "sh", *map(str, self.cgroups), "--"]

    def start(self) -> Self:
        """Start it, and wait until it serves.

        Raises:
            DaemonEnded: It ended instead.
        """
        self.launch()
        return self.ready()

    def ready(self) -> Self:
        """Wait until it serves, once it was launched.

        Raises:
            DaemonEnded: It ended instead.
        """
        eventually("battd serves", self._serves)
        found = self.state_dir.stat()
        self._token = f"{found.st_dev:x}-{found.st_ino:x}"
        return self

    def _serves(self) -> bool:
        code = self._running.poll()
        if code is not None:
            raise DaemonEnded(code, self.log)
        with suppress(Unreachable), Client(self.socket, timeout=5.0) as client:
            return client.service().pid == self._running.pid
        return False

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "battd was never started"
        return self._process

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def process(self) -> psutil.Process:
        """battd's process, for its threads, descriptors and memory."""
        return psutil.Process(self.pid)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self, number: signal.Signals) -> None:
        """Send battd a signal; one that nothing survives is waited for."""
        self._running.send_signal(number)
        if number is signal.SIGKILL:
            self._running.wait(PATIENCE_S)

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        try:
            return self._running.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"battd did not end within {PATIENCE_S:g} s:\n{self.log[-4000:]}") from None

    def stop(self) -> None:
        """Ask it to drain, as a service manager does, and see that it leaves as it should."""
        self.kill(signal.SIGTERM)
        code = self.ended()
        if code != 0:
            raise DaemonEnded(code, self.log)

    def end(self) -> None:
        """Leave nothing behind."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self.alive():
            kill.end_tree(self.pid)
            self._running.wait(PATIENCE_S)
        if self._token:
            for pid in proc.holding(nursery.TOKEN, self._token):
                kill.end_tree(pid)
            # A battd that was killed leaves its control groups to the next one on its state directory: there is none.
            for group in list(cgroupfs.named("/sys/fs/cgroup", f"batt-{self._token}")):
                cgroupfs.end([group])
                cgroupfs.discard(group)
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    @property
    def log(self) -> str:
        """What all its lives have logged."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    # Its processes

    def workers(self) -> dict[int, int]:
        """Pid of each slot's worker."""
        return {slot.slot: slot.worker_pid for slot in self.client.service().slots if slot.worker_pid is not None}

    def orphans(self) -> list[int]:
        """Processes of its workers, and what those started, that live though the battd they belong to is gone."""
        return [pid for pid in proc.holding(nursery.TOKEN, self._token) if not self._has(pid)]

    def _has(self, pid: int) -> bool:
        """Whether a process is below the battd that runs now, or has ended."""
        while pid > 1:
            stat = proc.stat(pid)
            if stat is None or stat.state == "Z" or (pid == self.pid and self.alive()):
                return True
            pid = stat.parent
        return False

    # Its work

    @property
    def client(self) -> Client:
        """A client that outlives restarts of battd."""
        if self._client is None:
            self._client = Client(self.socket)
        return self._client

    def submit(
        self,
        function: str | None = None,
        items: Iterable[Any] | None = None,
        *,
        args: Any = (),
        command: Sequence[str] | None = None,
        shell: bool = False,
        name: str | None = None,
        key: str | None = None,
        cwd: Path | str = "/",
        env: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        python: Path | str | None = None,
        seed: int | None = None,
        **limits: Any,
    ) -> str:
        """Submit a run of one stage; its name.

        Args:
            items: One task each, with battctl's rule: an object gives keyword arguments, an array positional ones,
                anything else is one argument. For a command, the text of `{item}`.
            args: Of the one task there is without `items`.
            python: Absolute path of the interpreter of functions.
            limits: Of the stage, by the names of `wire.StageSpec`, and `allow_children`.
        """
        work = {"function": function, "command": tuple(command) if command else None, "shell": shell}
        stage = StageSpec(name="only", **work, **limits)
        if items is None:
            tasks = [TaskSpec(args=list(args) if isinstance(args, tuple) else args)]
        else:
            tasks = [TaskSpec(args={"item": item} if command else arguments(item)) for item in items]
        return self.submit_stages(
            [stage],
            tasks,
            name=name or function or "command",
            key=key,
            cwd=cwd,
            env=env,
            deadline_s=deadline_s,
            python=python,
            seed=seed,
        )

    def submit_stages(
        self,
        stages: Sequence[StageSpec],
        tasks: Iterable[TaskSpec],
        *,
        name: str = "stages",
        key: str | None = None,
        cwd: Path | str = "/",
        env: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        python: Path | str | None = None,
        seed: int | None = None,
    ) -> str:
        """Submit a run; its name."""
        spec = RunSpec(
            name=name,
            key=key,
            cwd=str(cwd),
            env=dict(env or {}),
            deadline_s=deadline_s,
            python=None if python is None else str(python),
            seed=seed,
            stages=tuple(stages),
        )
        return self.client.submit(spec, tasks).run

    def wait(self, run: str, *, within_s: float = PATIENCE_S) -> RunInfo:
        """Wait for a run's end."""
        until_s = time.monotonic() + within_s
        info = self._asked(lambda: self.client.run(run))
        while info.ended_at_ms is None:
            if time.monotonic() > until_s:
                raise AssertionError(f"run {run} has not ended within {within_s:g} s: {info}\n{self.log[-4000:]}")
            settled = sum(count for state, count in info.counts.items() if state not in OPEN)
            info = self._asked(lambda since=settled: self.client.run(run, wait_s=1.0, since=since))  # type: ignore[misc]
        return info

    def _asked(self, question: Callable[[], T]) -> T:
        """What battd answers; where it has ended, its log says more than a lost connection."""
        try:
            return question()
        except Unreachable:
            with suppress(subprocess.TimeoutExpired):
                raise DaemonEnded(self._running.wait(5.0), self.log) from None
            raise

    def results(self, run: str) -> list[TaskResult]:
        """Every result of a run, in order of submission."""
        return list(self.client.all_results(run))

    def task(self, run: str, index: int = 0) -> str:
        """The name of a run's task."""
        return self.client.results(run, after=index - 1, limit=1).items[0].id

    def look(self, task: str) -> TaskResult:
        """A task as it stands; a run's name means its first one."""
        return self.client.task(self.task(task) if task.startswith("r") else task).task

    def attempts(self, task: str) -> tuple[AttemptInfo, ...]:
        """A task's attempts; a run's name means its first one."""
        return self.client.task(self.task(task) if task.startswith("r") else task).attempts

    def wait_for(self, task: str, state: State) -> TaskResult:
        """Wait until a task (a run's name means its first one) is in a state.

        Raises:
            AssertionError: It settled in another one, or took too long.
        """
        name = self.task(task) if task.startswith("r") else task

        def there() -> TaskResult | None:
            found = self._asked(lambda: self.client.task(name).task)
            if found.state is state:
                return found
            if found.state not in OPEN:
                raise AssertionError(f"task {name} settled as {found.state}, not {state}: {found}")
            return None

        found = eventually(f"task {name} is {state}", there)
        assert found is not None
        return found
