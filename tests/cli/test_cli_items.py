from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batt_supervisor.cli.items import arguments, item_text, json_lines, parse_json, text_lines, yielded
from batt_supervisor.errors import BadInput


def lines(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "items"
    path.write_bytes(data)
    return str(path)


def test_json_lines_skip_blank_ones(tmp_path: Path) -> None:
    path = lines(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\n[1, 2]\n  \n"x"\n3\nnull')
    assert list(json_lines(path)) == [{"a": 1}, [1, 2], "x", 3, None]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"1\n{bad}\n", "line 2 is not JSON: expecting property name"),
        (b"\n\n1 2\n", "line 3 is not JSON: extra data at column 3"),
        (b"1\nNaN\n", "line 2 is not JSON: it says NaN"),
        (b"1\n\xff\n", "line 2 is not UTF-8"),
        (b"[" * 100_000 + b"\n", "line 1 is not JSON: it is nested too deeply"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        list(json_lines(lines(tmp_path, data)))


def test_lines_before_a_broken_one_are_given_first(tmp_path: Path) -> None:
    found = json_lines(lines(tmp_path, b"1\n2\nx\n"))
    assert [next(found), next(found)] == [1, 2]


def test_a_command_gets_the_raw_text_or_the_value_of_a_json_string(tmp_path: Path) -> None:
    path = lines(tmp_path, b'a b \n\n"c \\"d\\""\n"half\n{"x": 1}\n')
    assert list(text_lines(path)) == ["a b ", 'c "d"', '"half', '{"x": 1}']


def test_no_command_line_holds_a_nul(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="line 1 holds a NUL"):
        list(text_lines(lines(tmp_path, b'"a\\u0000b"\n')))


@pytest.mark.parametrize("path", ["none.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(path: str) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        list(json_lines(path))


@pytest.mark.parametrize(
    ("item", "args", "text"),
    [
        ({"a": 1}, {"a": 1}, '{"a":1}'),
        ([1, 2], [1, 2], "[1,2]"),
        ("x", ["x"], "x"),
        (3, [3], "3"),
        (None, [None], "null"),
    ],
)
def test_an_item_becomes_arguments_or_text(item: Any, args: Any, text: str) -> None:
    assert arguments(item) == args
    assert item_text(item) == text


def test_a_broken_json_argument_says_where() -> None:
    with pytest.raises(ValueError, match="at column 4"):
        parse_json("[1,")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "zoo_items.py").write_text(
        "def some(n):\n    for i in range(n):\n        yield (i, 'x')\n"
        "def breaks():\n    yield 1\n    raise KeyError('gone')\n"
        "def odd():\n    yield 1\n    yield {1, 2}\n"
        "def leaves():\n    raise SystemExit(3)\n"
        "def none():\n    return 3\n"
        "word = 'x'\n"
    )
    (tmp_path / "zoo_broken.py").write_text("import no_such_module_at_all\n")
    return tmp_path


def test_a_function_yields_items(module: Path) -> None:
    assert list(yielded("zoo_items:some", {"n": 2}, module, {})) == [[0, "x"], [1, "x"]]
    assert list(yielded("zoo_items:some", [1], module, {})) == [[0, "x"]]


@pytest.mark.parametrize(
    ("function", "args", "said"),
    [
        ("zoo_none:x", {}, "no module 'zoo_none'"),
        ("zoo_items:sme", {}, "has no 'sme'; did you mean 'some'"),
        ("zoo_items:word", {}, "is not a function"),
        ("zoo_items:some", {"m": 1}, "unexpected keyword argument 'm'"),
        ("zoo_items:none", {}, "not iterable"),
        ("zoo_items:breaks", {}, r"failed: KeyError: 'gone' \(.*zoo_items.py, line 6\)"),
        ("zoo_items:odd", {}, "item 1 that is not JSON"),
        ("zoo_items:leaves", {}, "failed: SystemExit: 3"),
        ("zoo_broken:f", {}, "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
    ],
)
def test_what_goes_wrong_in_an_items_function_is_one_sentence(
    module: Path, function: str, args: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        list(yielded(function, args, module, {}))
