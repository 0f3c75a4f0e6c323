"""battd's own JSON says and understands what the standard library's does."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batt_supervisor.jsontext import dumps, loads

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_each_reads_what_the_other_writes(value: Any) -> None:
    assert json.loads(dumps(value)) == value
    assert loads(dumps(value)) == value
    assert loads(json.dumps(value)) == value
    assert loads(json.dumps(value).encode()) == value


@given(st.text() | st.binary())
def test_what_is_no_json_is_a_value_error_of_both(text: str | bytes) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            loads(text)
    else:
        assert repr(loads(text)) == repr(expected)  # NaN is no equal of itself


@pytest.mark.parametrize("text", ["\ud800", "a\udcff", "\0", "\N{GRINNING FACE}"])
def test_half_characters_and_others_go_through(text: str) -> None:
    assert loads(dumps([text])) == [text]
    assert json.loads(dumps([text])) == [text]


def test_numbers_beyond_every_size_go_through() -> None:
    assert loads(dumps([10**400, -(10**400)])) == [10**400, -(10**400)]
    assert loads(dumps([math.inf, -math.inf])) == [math.inf, -math.inf]
    assert math.isnan(loads(dumps(math.nan)))


def test_what_is_nested_deeper_than_the_core_takes_goes_through() -> None:
    value: list[Any] = []
    for _ in range(400):
        value = [value]
    assert loads(dumps(value)) == value
    assert loads(json.dumps(value)) == value


def test_what_is_nested_too_deep_is_an_error() -> None:
    with pytest.raises(RecursionError):
        loads("[" * 100_000 + "]" * 100_000)


def test_tuples_are_arrays_and_words_of_an_enumeration_their_values() -> None:
    from batt_supervisor.core.lifecycle import State

    assert dumps((1, State.QUEUED, None)) == '[1,"queued",null]'
