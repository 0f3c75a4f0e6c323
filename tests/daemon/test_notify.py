"""What systemd is told, over a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from batt_supervisor.daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The manager's end, and what it puts into NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        if request.param == "path":
            address = str(tmp_path / "notify")
            listening.bind(address)
        else:
            name = f"batt-test-{os.getpid()}-{tmp_path.name}"
            listening.bind("\0" + name)
            address = "@" + name
        listening.setblocking(False)
        yield listening, address


def test_a_state_arrives_whole(manager: tuple[socket.socket, str]) -> None:
    listening, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.send("READY=1\nSTATUS=serving ä")
    notifier.send("WATCHDOG=1")
    assert listening.recv(4096) == "READY=1\nSTATUS=serving ä".encode()
    assert listening.recv(4096) == b"WATCHDOG=1"


def test_a_manager_that_does_not_listen_is_not_waited_for(manager: tuple[socket.socket, str]) -> None:
    _, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    for _ in range(5000):  # far more than its buffer holds
        notifier.send("WATCHDOG=1" + "x" * 200)


@pytest.mark.parametrize("address", ["", "/no/such/socket", "/" + "x" * 200, "@nobody-listens", "vsock:2:1234", "/"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address} if address else {}).send("READY=1")


def test_no_descriptor_is_left_behind(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    before = os.listdir("/proc/self/fd")
    notifier.send("READY=1")
    Notifier({"NOTIFY_SOCKET": "/no/such"}).send("READY=1")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_the_watchdog_is_for_the_process_it_names(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert Notifier(environ).watchdog_s == watchdog_s
