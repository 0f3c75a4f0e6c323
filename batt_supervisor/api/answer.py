"""Answers that hold what users gave: written by the standard library's json, or passed on as it is stored.

pydantic's own serializer takes neither what is nested 255 deep nor half a surrogate pair, and both are JSON. And what
is JSON text already is not read only to be written again: a result of 60 MB would hold up every other request for
seconds.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from fastapi import Response

from batt_supervisor.wire import Wire


@dataclass(frozen=True, slots=True)
class Stored:
    """JSON text as it was stored, in the place of the value that it stands for."""

    text: bytes


def answer(shape: Wire) -> Response:
    """A shape of the API as a response."""
    # Nobody can have written this text into an argument or a result: it is drawn after they were stored.
    mark = f"stored-{secrets.token_hex(16)}"
    stored: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Stored):
            stored.append(value.text)
            return mark
        return {name: getattr(value, name) for name in type(value).model_fields}

    around = json.dumps(shape, default=plain, separators=(",", ":")).encode().split(f'"{mark}"'.encode())
    parts = [part for pair in zip(around, [*stored, b""], strict=True) for part in pair]
    return Response(b"".join(parts), media_type="application/json")
