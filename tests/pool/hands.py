"""A crew that a test drives: the test's own thread is its loop."""

from __future__ import annotations

import os
import resource
import select
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from batt_supervisor.core.model import Room
from batt_supervisor.core.world import SlotPhase, SlotView
from batt_supervisor.pool.crew import Crew, Settings
from batt_supervisor.pool.group import Groups
from batt_supervisor.pool.nursery import Places
from batt_supervisor.pool.nursery import Settings as NurserySettings
from batt_supervisor.pool.protocol import Exit, Request
from batt_supervisor.testing import PATIENCE_S

HERE = Path(__file__).resolve().parent
HOME = Room("/")


class Hands:
    """A crew with its two threads, and this thread as its loop."""

    def __init__(
        self, folder: Path, width: int = 2, environ: Mapping[str, str] = MappingProxyType({}), **given: Any
    ) -> None:
        for name in ("logs", "results"):
            (folder / name).mkdir()
        self.folder = folder
        places = Places(folder / "logs", folder / "results", f"test-{os.getpid()}", "/nowhere", 2**26)
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{HERE.parent}:{HERE}", **environ}
        nursery = NurserySettings(environ=environ, **{"preload": (), **given})
        settings = Settings(20.0, resource.getrlimit(resource.RLIMIT_NOFILE), nursery)
        self.crew = Crew(places, settings, Groups.find("off", "x"), width, HOME, time.monotonic())
        self._threads = [threading.Thread(target=one.run) for one in (self.crew.builder, self.crew.reaper)]
        for thread in self._threads:
            thread.start()
        self.exits: list[Exit] = []
        self._serial = 0

    def round(self) -> None:
        waiter = select.poll()
        for fd in self.crew.descriptors():
            waiter.register(fd, select.POLLIN)
        ready = {fd for fd, _ in waiter.poll(20)}
        self.exits += self.crew.poll(time.monotonic(), ready)

    def until(self, what: str, seen: Any) -> Any:
        until_s = time.monotonic() + PATIENCE_S
        while not (found := seen()):
            assert time.monotonic() < until_s, f"not seen: {what}; {self.crew.status()}"
            self.round()
        return found

    def idle(self) -> list[int]:
        return [slot.id for slot in self.crew.slots() if slot.phase is SlotPhase.IDLE]

    def all_idle(self) -> None:
        self.until("all slots are idle", lambda: len(self.idle()) == 3)

    def request(self, function: str, *args: Any) -> Request:
        """One for the first attempt of a task of the same number."""
        self._serial += 1
        body = {"op": "call", "function": function, "args": args, "task": self._serial, "attempt": 1}
        return Request(self._serial, body)

    def send(self, slot_id: int, function: str, *args: Any) -> int:
        request = self.request(function, *args)
        self.crew.send(slot_id, [request])
        return request.serial

    def end_of(self, serial: int) -> Exit:
        self.until(f"{serial} has ended", lambda: any(one.serial == serial for one in self.exits))
        [found] = [one for one in self.exits if one.serial == serial]
        return found

    def call(self, function: str, *args: Any) -> Any:
        """What it gives, in any idle slot."""
        found = None
        while found is None or found.requeue or found.together:  # its worker was dying, though the slot seemed idle
            self.until("a slot is idle", self.idle)
            found = self.end_of(self.send(self.idle()[0], function, *args))
        report = found.report
        assert report is not None
        assert report["outcome"] == "ok"
        return report["value"]

    def view(self, slot_id: int) -> SlotView:
        found = self.crew.slot(slot_id)
        assert found is not None
        return found

    def inside(self, slot_id: int) -> Any:
        return self.crew._slots[slot_id]

    def nursery(self) -> Any:
        return self.until("there is a nursery", lambda: self.crew.nurseries.get(HOME))

    def close(self) -> None:
        self.crew.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.crew.wait(PATIENCE_S)
