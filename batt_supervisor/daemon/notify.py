"""Tells systemd that battd is ready, alive, going down. Without systemd nothing is sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """The sd_notify protocol: datagrams to the socket that NOTIFY_SOCKET names.

    Attributes:
        watchdog_s: How often the manager wants to hear WATCHDOG=1 at the latest; None when it does not.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        micros = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(micros) / 1e6 if micros.isdigit() and for_us else None
        self._said_s = float("-inf")

    def alive(self, now_s: float) -> None:
        """Tell the manager that battd goes round, as often as it wants to hear that and not much more often."""
        if self.watchdog_s is not None and now_s - self._said_s >= self.watchdog_s / 3:
            self._said_s = now_s
            self.send("WATCHDOG=1")

    def send(self, state: str) -> None:
        """Send one state, such as `READY=1`. A manager that does not listen is not waited for."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as out:
            out.sendto(state.encode(), address)
