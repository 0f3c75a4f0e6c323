"""Refuses requests that are too large before they are in memory."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batt_supervisor.errors import BadInput
from batt_supervisor.wire import Problem


class _TooLarge(Exception):
    """The body has grown past the limit while it was read."""


class BodyLimit:
    """ASGI middleware: a body of more than `limit` bytes is refused, announced or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise _TooLarge
            return message

        try:
            if announced.isdigit() and int(announced) > self._limit:
                raise _TooLarge
            await self._app(scope, counted, send)
        except _TooLarge:
            problem = Problem(error=BadInput.code, message=f"the request is larger than {self._limit} bytes")
            await JSONResponse(problem.model_dump(), 413)(scope, receive, send)
