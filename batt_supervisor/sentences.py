"""pydantic's complaints in this project's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_PLAIN: Final[Mapping[str, str]] = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table of names and values",
    "model_type": "must be a table",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "path_type": "must be a path",
    "missing": "is missing",
}


def complaint(error: Mapping[str, Any]) -> str:
    """What one of `ValidationError.errors()` says, without the place and the value it is about."""
    return _PLAIN.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ").replace(
        "Input should", "should"
    )
