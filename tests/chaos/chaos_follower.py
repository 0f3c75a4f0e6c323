"""Somebody who follows the event log all the while, from one battd to the next."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from batt_supervisor.client import Client
from batt_supervisor.errors import BattError, Refused, Unreachable
from batt_supervisor.wire import EventInfo

PAGE: Final = 500

WAIT_S: Final = 1.0


class Follower:
    """Reads every event once, going on behind the last one it has.

    Attributes:
        events: All until now.
        missed: How many it was told that it had missed.
        complaints: What should not have been.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._after = 0
        self.events: list[EventInfo] = []
        self.missed = 0
        self.complaints: list[str] = []

    def run(self, stop: threading.Event) -> None:
        """Follow until told to stop, and then to the end of what there is."""
        try:
            with Client(self._socket) as client:
                more = True
                while more or not stop.is_set():
                    more = self._page(client)
        except BattError as error:
            self.complaints.append(f"the follower ended by {type(error).__name__}: {error}")

    def _page(self, client: Client) -> bool:
        """Read on; whether there may be more at once."""
        with suppress(Unreachable, Refused):  # nobody is there, or is going down
            page = client.events(after=self._after, limit=PAGE, wait_s=WAIT_S)
            self.events += page.items
            self.missed += page.missed
            self._after = page.next
            return bool(page.items)
        time.sleep(0.05)
        return True
