"""uvicorn on a private unix socket, in a thread of battd's, refusing peers of other users."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from batt_supervisor.errors import BadConfiguration, StateDirUnusable

SO_PEERGROUPS = 59
"""Of Linux; the socket module does not name it."""


def gid_of(group: str) -> int:
    """The number of a group.

    Raises:
        BadConfiguration: There is no such group.
    """
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise BadConfiguration(f"socket_group: there is no group {group!r}") from error


def bind(path: Path, group: str | None) -> socket.socket:
    """A listening socket that only its owner (0600), or also a group (0660), may connect to.

    Raises:
        StateDirUnusable: The path is taken by something else, or cannot be made.
        BadConfiguration: There is no such group.
    """
    gid = gid_of(group) if group else None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_socket():
            _refuse_if_served(path)
            path.unlink()
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if gid is not None:
            os.chown(path, -1, gid)
            path.chmod(0o660)
            _let_through(path.parent, gid)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise StateDirUnusable(f"the socket {path} cannot be made: {error.strerror or error}") from error
    return listener


def _let_through(folder: Path, gid: int) -> None:
    """Let the group pass through the socket's own folder, without seeing what else is in it."""
    found = folder.stat()
    if found.st_uid == os.geteuid() and not found.st_mode & 0o001:
        os.chown(folder, -1, gid)
        folder.chmod(found.st_mode & 0o700 | 0o010)


def _refuse_if_served(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return  # left behind by a battd that was killed
    raise StateDirUnusable(f"something already listens on {path}")


class PeerChecked(H11Protocol):
    """Closes connections from users that have no business here: the file's mode is one lock, this is the second."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3i", raw)
        if uid not in (0, os.geteuid()) and _group_of(peer) not in {gid, *_groups(peer)}:
            transport.abort()
            return
        super().connection_made(transport)


def _groups(peer: socket.socket) -> Iterator[int]:
    """The peer's further groups."""
    raw = peer.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * 65536)
    return (found[0] for found in struct.iter_unpack("I", raw))


def _group_of(peer: socket.socket) -> int | None:
    """The group that may connect, by the mode of the socket's file."""
    found = Path(peer.getsockname()).stat()
    return found.st_gid if found.st_mode & 0o060 else None


class Server:
    """The API's thread.

    Attributes:
        beat_s: Monotonic time of its event loop's last sign of life; a watchdog reads it.
        watch: Called twice a second: the API's thread watches those that watch it.
    """

    def __init__(
        self, app: FastAPI, listener: socket.socket, begin: Callable[[asyncio.AbstractEventLoop], None]
    ) -> None:
        self._listener = listener
        self._begin = begin
        config = uvicorn.Config(
            app,
            http=PeerChecked,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self.beat_s = time.monotonic()
        self.watch: Callable[[], None] = lambda: None

    def run(self) -> None:
        """The thread's whole life."""
        asyncio.run(self._serve())

    def stop(self) -> None:
        self._server.should_exit = True

    async def _serve(self) -> None:
        self._begin(asyncio.get_running_loop())
        beating = asyncio.create_task(self._beat())
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating

    async def _beat(self) -> None:
        while True:
            self.beat_s = time.monotonic()
            self.watch()
            await asyncio.sleep(0.5)
