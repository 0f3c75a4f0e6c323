"""The functions of the DSL: what each gives, and what holds for all grids."""

import inspect
import random
from typing import Any

import pytest

from worker.arc.dsl import FUNCTIONS, MAX_SIDE, Grid
from worker.arc.grids import as_grid, load_task, task_ids
from worker.guard import SoftTimeout, call_with_timeout

F = FUNCTIONS


def g(text: str) -> Grid:
    """A grid from rows parted by blanks; a dot is background."""
    return tuple(tuple(int(cell) for cell in row.replace(".", "0")) for row in text.split())


def random_grids() -> list[Grid]:
    rng = random.Random(7)
    sizes = [(1, 1), (1, 6), (5, 1), (3, 3), (6, 4), (7, 9), (12, 12)]
    grids = [tuple(tuple(rng.choice((0, 0, 0, 1, 2, 3)) for _ in range(w)) for _ in range(h)) for h, w in sizes]
    return [*grids, g("... ... ..."), g("11 11")]


GRIDS = random_grids()
L = g("1.. 1.. 12.")

CASES: list[tuple[str, tuple[Any, ...], Any]] = [
    ("height", (g("12 34 56"),), 3),
    ("width", (g("12 34 56"),), 2),
    ("turn_right", (g("12 34"),), g("31 42")),
    ("turn_left", (g("12 34"),), g("24 13")),
    ("turn_half", (g("12 34"),), g("43 21")),
    ("mirror_left_right", (g("12 34"),), g("21 43")),
    ("mirror_top_bottom", (g("12 34"),), g("34 12")),
    ("mirror_diagonal", (g("12 34"),), g("13 24")),
    ("mirror_antidiagonal", (g("12 34"),), g("42 31")),
    ("crop", (g("123 456 789"), 1, 0, 2, 2), g("45 78")),
    ("trim", (g("... .12 ..3 ..."),), g("12 .3")),
    ("peel", (g("123 456 789"),), g("5")),
    ("left_half", (g("12345"),), g("12")),
    ("right_half", (g("12345"),), g("45")),
    ("top_half", (g("1 2 3 4 5"),), g("1 2")),
    ("bottom_half", (g("1 2 3 4 5"),), g("4 5")),
    ("band_across", (g("123456"), 3, 1), g("34")),
    ("band_down", (g("1 2 3 4"), 2, 1), g("3 4")),
    ("beside", (g("1 2"), g("3 4")), g("13 24")),
    ("stack", (g("12"), g("34")), g("12 34")),
    ("tile", (g("12"), 2, 2), g("1212 1212")),
    ("scale", (g("12"), 2), g("1122 1122")),
    ("shrink", (g("1122 112. 3344 3344"), 2), g("12 34")),
    ("enlarge", (g("1"), 2, 3), g("1.. ...")),
    ("paste", (g("... ... ..."), g("12"), 1, 1), g("... .12 ...")),
    ("shift", (g("12 34"), 1, 0), g(".. 12")),
    ("shift", (g("12 34"), 0, -1), g("2. 4.")),
    ("shift", (g("12 34"), -1, 1), g(".3 ..")),
    ("shift", (g("12 34"), 5, 0), g(".. ..")),
    ("shift_around", (g("12 34"), 1, 0), g("34 12")),
    ("shift_around", (g("123"), 0, -1), g("231")),
    ("drop_repeats", (g("1122 1122 3344"),), g("12 34")),
    ("every_other", (g("123 456 789"),), g("13 79")),
    ("sort_rows", (g("111 ..2 .33"),), g("..2 .33 111")),
    ("blank", (1, 2, 5), g("55")),
    ("cell", (g("12 34"), -1, 0), 3),
    ("count_colour", (g("11 .1"), 1), 3),
    ("count_filled", (g("12 .."),), 2),
    ("count_colours", (g("12 1."),), 2),
    ("most_common_colour", (g("112 ..."),), 1),
    ("most_common_colour", (g("1122"),), 1),
    ("least_common_colour", (g("112 ..."),), 2),
    ("colours_down", (g("3322 21."),), g("2 3 1")),
    ("filled_across", (g("1. .2"),), g("12")),
    ("recolour", (g("12 .1"), 1, 5), g("52 .5")),
    ("recolour_filled", (g("12 .1"), 7), g("77 .7")),
    ("recolour_others", (g("12 .1"), 1, 5), g("15 51")),
    ("swap_colours", (g("12 .1"), 1, 2), g("21 .2")),
    ("keep_colour", (g("12 .1"), 1), g("1. .1")),
    ("overlay", (g("12 34"), g(".5 ..")), g("15 34")),
    ("paint_border", (g("... ... ..."), 8), g("888 8.8 888")),
    ("paint_border", (g("..."), 8), g("888")),
    ("paint_border", (g(". . ."), 8), g("8 8 8")),
    ("paint_empty_lines", (g("1.2 ... 3.4"), 5), g("152 555 354")),
    ("mark_uniform_rows", (g("111 121"), 5), g("555 ...")),
    ("smooth_rows", (g("112 322"),), g("111 222")),
    ("smooth_columns", (g("12 13 .2"),), g("12 12 12")),
    ("both", (g("12."), g("1.."), 5), g("5..")),
    ("either", (g("12."), g("1.."), 5), g("55.")),
    ("neither", (g("12."), g("1.."), 5), g("..5")),
    ("only_one", (g("12."), g("1.."), 5), g(".5.")),
    ("same", (g("1"), g("1")), True),
    ("choose", (False, g("1"), g("2")), g("2")),
    ("closest", (g("111"), g("222"), g("112")), g("112")),
    ("odd_one_out", (g("1"), g("1"), g("3"), g("1")), g("3")),
    ("how_many", (F["objects_of_one_colour"](L),), 2),
    ("how_many", (F["objects_of_any_colour"](L),), 1),
    ("how_many", (F["objects_of_one_colour"](g("1. .1")),), 2),
    ("how_many", (F["objects_touching"](g("1. .1")),), 1),
    ("objects_in", (g("..1"), 0), (((0, 0, 0), (0, 1, 0)),)),
    ("cut_out", (F["largest"](F["objects_of_one_colour"](L)),), g("1 1 1")),
    ("cut_out", (F["smallest"](F["objects_of_one_colour"](L)),), g("2")),
    ("cut_out", (F["by_size"](F["objects_of_one_colour"](L), 1),), g("2")),
    ("view", (L, F["objects_of_one_colour"](g("... ... 11."))), g("12")),
    ("paint", (L, F["of_size"](F["objects_of_one_colour"](L), 1), 0), g("1.. 1.. 1..")),
    ("draw", (g("... ... ..."), F["objects_of_any_colour"](L)), L),
    ("larger_than", (F["objects_of_one_colour"](L), 2), F["largest"](F["objects_of_one_colour"](L))),
    ("how_many", (F["with_hole"](F["objects_of_one_colour"](g("111 1.1 111"))),), 1),
    ("how_many", (F["with_hole"](F["objects_touching"](g(".1. 1.1 .1."))),), 1),
    ("how_many", (F["with_hole"](F["objects_of_one_colour"](g("111 1.1 1.1"))),), 0),
    ("cut_out", (F["with_symmetry"](F["objects_of_one_colour"](g("1..22 11.22"))),), g("22 22")),
    ("colour_of", (F["with_most_of"](F["objects_of_any_colour"](g("11. ... 222")), 2),), 2),
    ("cut_out", (F["with_most_colours"](F["objects_of_any_colour"](g("11. ... 223"))),), g("223")),
    ("cut_out", (F["most_frequent"](F["objects_of_one_colour"](g("33.1.1"))),), g("1")),
    ("insides", (F["objects_of_one_colour"](g("111 111 111")),), (((1, 1, 1),),)),
    ("how_many", (F["corners"](F["objects_of_one_colour"](g("111 111"))),), 1),
    ("fill_enclosed", (g("111. 1.1. 111."), 4), g("111. 141. 111.")),
    ("outline", (g("... .1. ..."), 5), g("555 515 555")),
    ("fill_boxes", (g("1.. 11. ..."), 5), g("15. 11. ...")),
    ("cut_where", (g("123 456"), g("... .88"), 8), g("56")),
    ("cut_colour", (g("1.1 .2. 1.."), 1), g("1.1 .2. 1..")),
    ("join_across", (g("1..1"), 0), g("1111")),
    ("join_across", (g("1..2..1"), 5), g("1..2..1")),
    ("join_down", (g("1 . 1"), 5), g("1 5 1")),
    ("join_diagonally", (g("1.. ... ..1"), 0), g("1.. .1. ..1")),
    ("extend_right", (g(".1.2."),), g(".1122")),
    ("extend_left", (g(".1.2."),), g("1122.")),
    ("extend_down", (g(". 1 . 2 ."),), g(". 1 1 2 2")),
    ("extend_up", (g(". 1 . 2 ."),), g("1 1 2 2 .")),
    ("extend_diagonally", (g("1.. ... ..."),), g("1.. .1. ..1")),
    ("fall_right", (g("1.2."),), g("..12")),
    ("fall_left", (g(".1.2"),), g("12..")),
    ("fall_down", (g("1 . 2 ."),), g(". . 1 2")),
    ("fall_up", (g(". 1 . 2"),), g("1 2 . .")),
    ("star", (g("... .1. ..."),), g("1.1 .1. 1.1")),
    ("four_mirrors", (g("12"),), g("1221 1221")),
    ("four_turns", (g("12 34"),), g("1231 3442 2443 1321")),
    ("tile_where", (g("1. .."), 1), g("1... .... .... ....")),
    ("smallest_period", (g("1212 1212 3434 1212 1212 3434"),), g("12 12 34")),
    ("restore_tiling", (g("1212 2..1 1212 2121"), 0), g("1212 2121 1212 2121")),
    ("restore_mirror", (g("1.1 .5. 131"), 0), g("131 353 131")),
    ("is_symmetric", (g("121 3.3"),), True),
    ("diagonal", (2, 8), g("8. .8")),
    ("repeat", (F["turn_right"], 2, g("12")), g("21")),
    ("repeat_until_stable", (F["extend_right"], g("1..")), g("111")),
    ("times", (3, 4), 12),
    ("plus", (3, -4), -1),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_a_function_gives_what_its_docstring_says(name: str, arguments: tuple[Any, ...], expected: Any) -> None:
    assert FUNCTIONS[name](*arguments) == expected


def test_every_function_has_a_docstring_and_is_in_a_case() -> None:
    used = {name for name, _, _ in CASES}
    helpers = {"objects_of_one_colour", "objects_of_any_colour", "objects_touching", "largest", "smallest", "compose"}
    helpers |= {"by_size", "of_size", "with_hole", "with_symmetry", "with_most_of", "with_most_colours"}
    helpers |= {"most_frequent", "corners"}
    assert set(FUNCTIONS) - used == helpers
    assert [name for name, function in FUNCTIONS.items() if not function.__doc__] == []


def test_compose_does_the_first_first() -> None:
    crop_then_turn = FUNCTIONS["compose"](FUNCTIONS["top_half"], FUNCTIONS["turn_right"])
    assert crop_then_turn(g("12 34")) == g("1 2")


IDENTITIES = {
    "four quarter turns": ("turn_right",) * 4,
    "right and left": ("turn_right", "turn_left"),
    "two half turns": ("turn_half",) * 2,
    "mirrored twice": ("mirror_left_right",) * 2,
    "upside down twice": ("mirror_top_bottom",) * 2,
    "diagonal twice": ("mirror_diagonal",) * 2,
    "antidiagonal twice": ("mirror_antidiagonal",) * 2,
    "two mirrors and a half turn": ("mirror_left_right", "mirror_top_bottom", "turn_half"),
}


@pytest.mark.parametrize("steps", IDENTITIES.values(), ids=IDENTITIES.keys())
def test_these_steps_together_change_nothing(steps: tuple[str, ...]) -> None:
    for grid in GRIDS:
        result = grid
        for step in steps:
            result = FUNCTIONS[step](result)
        assert result == grid


IDEMPOTENT = ["trim", "extend_right", "extend_down", "fall_down", "fall_left", "drop_repeats", "sort_rows"]


@pytest.mark.parametrize("name", [*IDEMPOTENT, "smooth_rows", "smallest_period"])
def test_done_twice_is_done_once(name: str) -> None:
    for grid in GRIDS:
        if any(map(any, grid)):
            once = FUNCTIONS[name](grid)
            assert FUNCTIONS[name](once) == once


def test_objects_of_one_colour_are_all_the_filled_cells_once() -> None:
    for grid in GRIDS:
        for find in ("objects_of_one_colour", "objects_touching", "objects_of_any_colour"):
            cells = sorted(cell for item in FUNCTIONS[find](grid) for cell in item)
            filled = [(r, c, v) for r, row in enumerate(grid) for c, v in enumerate(row) if v]
            assert cells == filled


def test_every_function_of_a_grid_gives_a_grid_or_a_reason() -> None:
    for name, function in FUNCTIONS.items():
        signature = inspect.signature(function)
        if [str(p.annotation) for p in signature.parameters.values()] != [str(Grid)]:
            continue
        for grid in GRIDS:
            try:
                result = function(grid)
            except ValueError as error:
                assert " " in str(error), name
                continue
            if signature.return_annotation == Grid:
                assert as_grid(result) == result, name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("crop", (g("12"), 0, 1, 1, 2)),
        ("crop", (g("12"), -1, 0, 1, 1)),
        ("peel", (g("12 34"),)),
        ("trim", (g(".."),)),
        ("left_half", (g("1 2"),)),
        ("band_across", (g("123"), 2, 0)),
        ("band_down", (g("1 2"), 2, 2)),
        ("beside", (g("1 2"), g("1"))),
        ("stack", (g("12"), g("1"))),
        ("tile", (g("12"), 0, 1)),
        ("shrink", (g("123"), 2)),
        ("enlarge", (g("123"), 1, 2)),
        ("paste", (g("12"), g("123"), 0, 0)),
        ("cell", (g("12"), 1, 0)),
        ("most_common_colour", (g(".."),)),
        ("filled_across", (g(".."),)),
        ("overlay", (g("12"), g("1"))),
        ("both", (g("12"), g("1"), 1)),
        ("odd_one_out", (g("1"), g("2"), g("3"), g("3"))),
        ("largest", ((),)),
        ("by_size", ((), 0)),
        ("cut_out", ((),)),
        ("paint", (g("1"), (((5, 5, 1),),), 2)),
        ("view", (g("1"), (((5, 5, 1),),))),
        ("cut_colour", (g("1"), 7)),
        ("four_turns", (g("12"),)),
        ("restore_tiling", (g("12"), 0)),
        ("restore_mirror", (g("12"), 0)),
        ("diagonal", (0, 1)),
        ("repeat", (F["turn_right"], -1, g("1"))),
    ],
)
def test_what_cannot_be_done_is_a_value_error_with_a_sentence(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        FUNCTIONS[name](*arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("scale", (10**9,)), ("tile", (10**9, 10**9)), ("enlarge", (10**9, 3)), ("tile_where", (1,))],
)
def test_no_grid_grows_without_bound(name: str, arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=str(MAX_SIDE)):
        FUNCTIONS[name](FUNCTIONS["blank"](30, 30, 1), *arguments)


def test_repeating_a_turn_until_stable_never_ends() -> None:
    with pytest.raises(SoftTimeout):
        call_with_timeout(FUNCTIONS["repeat_until_stable"], 0.1, FUNCTIONS["turn_right"], g("12 34"))


def test_the_fixture_is_made_of_grids() -> None:
    for task_id in task_ids("fixture"):
        for sample in load_task(task_id, "fixture").samples.values():
            assert as_grid(sample.input) == sample.input
