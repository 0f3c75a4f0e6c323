"""Answers that hold what users gave: written by the standard library's json, as it was read.

pydantic's own serializer takes neither what is nested 255 deep nor half a surrogate pair, and both are JSON.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import Response

from batt_supervisor.wire import Wire


def answer(shape: Wire) -> Response:
    """A shape of the API as a response."""
    return Response(json.dumps(shape, default=_fields, separators=(",", ":")), media_type="application/json")


def _fields(shape: Any) -> dict[str, Any]:
    return {name: getattr(shape, name) for name in type(shape).model_fields}
