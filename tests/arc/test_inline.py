"""Inlining: the same meaning in one expression, or the source as it was."""

import pytest

from worker.arc.catalogue import load_program, program_names, program_source
from worker.arc.grids import as_grid, load_task, task_ids
from worker.arc.inlining import inline_source
from worker.arc.tasks import inline


def outcome(source: str, grid: object) -> object:
    try:
        return as_grid(load_program(source)(grid))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", program_names())
def test_an_inlined_program_gives_the_same(name: str) -> None:
    result = inline(name, growth_limit=50.0)
    assert result["inlined"], result["reason"]
    assert " = " not in result["source"].split("def solve", 1)[1]
    for task_id in task_ids("fixture"):
        for sample in load_task(task_id, "fixture").samples.values():
            assert outcome(result["source"], sample.input) == outcome(program_source(name), sample.input)


@pytest.mark.parametrize(
    ("body", "inlined"),
    [
        ("x1 = trim(grid); return x1", "trim(grid)"),
        ("x1 = trim(grid); x1 = turn_half(x1); return x1", "turn_half(trim(grid))"),
        ("grid = trim(grid); grid = beside(grid, grid); return grid", "beside(trim(grid), trim(grid))"),
        ("x1 = grid; grid = trim(grid); return beside(x1, grid)", "beside(grid, trim(grid))"),
        ("x1 = 1; x2 = scale(grid, x1); x1 = 2; return scale(x2, x1)", "scale(scale(grid, 1), 2)"),
        ("x1 = trim(grid); x2 = turn_half(grid); return x2", "turn_half(grid)"),
        ("trim = turn_half(grid); return trim", "turn_half(grid)"),
        ("x1: object = trim(grid); return x1", "trim(grid)"),
        ("return grid", "grid"),
    ],
)
def test_names_stand_for_what_they_were_when_used(body: str, inlined: str) -> None:
    result = inline_source(f"def solve(grid):\n    {body}\n", 10.0, 1000)
    assert result.source == f"def solve(grid):\n    return {inlined}\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("f = lambda g: trim(g); return f(grid)", "binds names"),
        ("x1 = [r for r in grid]; return x1", "binds names"),
        ("x1 = (y := trim(grid)); return x1", "binds names"),
        ("x1 = iter(grid); return (next(x1), next(x1))", "used up"),
        ("x1 = []; x2 = x1.append(1); return x1", "attribute"),
        ("a, b = grid; return a", "not an assignment to one name"),
        ("x1 = x2 = trim(grid); return x1", "not an assignment to one name"),
        ("grid += grid; return grid", "not an assignment to one name"),
        ("trim(grid); return grid", "not an assignment to one name"),
    ],
)
def test_what_might_change_its_meaning_stays_as_it_is(body: str, reason: str) -> None:
    source = f"def solve(grid):\n    {body}\n"
    result = inline_source(source, 10.0, 1000)
    assert (result.source, result.inlined) == (source, False)
    assert reason in result.reason


def doubling(lines: int) -> str:
    steps = "".join(f"    x{n} = beside(x{n - 1}, x{n - 1})\n" for n in range(1, lines + 1))
    return f"def solve(grid):\n    x0 = grid\n{steps}    return x{lines}\n"


@pytest.mark.parametrize(("lines", "growth", "nodes", "inlined"), [(3, 10, 999, True), (5, 1, 999, False)])
def test_the_growth_limit_decides(lines: int, growth: float, nodes: int, inlined: bool) -> None:
    result = inline_source(doubling(lines), growth, nodes)
    assert result.inlined is inlined
    assert inlined or result.source == doubling(lines)


def test_the_node_limit_decides_too() -> None:
    assert not inline_source(doubling(3), 100.0, 20).inlined


def test_a_program_that_would_explode_is_refused_before_it_is_built() -> None:
    result = inline_source(doubling(2000), 1e6, 10_000)
    assert not result.inlined
    assert "more than" in result.reason


def test_a_nesting_deeper_than_python_reads_keeps_the_source() -> None:
    steps = "".join(f"    x{n} = trim(x{n - 1})\n" for n in range(1, 400))
    source = f"def solve(grid):\n    x0 = grid\n{steps}    return x399\n"
    result = inline_source(source, 10.0, 100_000)
    assert (result.source, result.inlined) == (source, False)
    assert "nested" in result.reason


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def solve(grid) return 1", "not Python"),
        ("def solve(g): return \0", "not Python"),
        ("(" * 5000, "not Python|nested"),
        ("x = 1\n", "no functions `solve`"),
        ("def solve(g): return g\ndef solve(g): return g\n", "2 functions `solve`"),
        ("def solve(g): pass\n", "not straight-line"),
        ("def solve(g): return\n", "not straight-line"),
        ("def solve(g):\n    return g\n    x = 1\n", "not straight-line"),
        ("def solve(g):\n    return g\n    return g\n", "before the end"),
        ("def solve(g):\n    while True: pass\n    return g\n", "kind While"),
        ("def solve(g):\n    import os\n    return g\n", "kind Import"),
        ("def solve(g):\n    x = yield g\n    return g\n", "suspends"),
        ("def solve(g):\n    x = y\n    y = g\n    return x\n", "'y' is used in line 2 before"),
        ("def solve(g):\n    trim = trim(g)\n    return trim\n", "'trim' is used in line 2 before"),
    ],
)
def test_a_malformed_program_is_a_value_error(source: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        inline_source(source, 10.0, 1000)


def test_what_stands_around_the_function_is_kept() -> None:
    source = '"""About."""\nN = 2\n\ndef solve(grid):\n    """It."""\n    x1 = scale(grid, N)\n    return x1\n'
    result = inline_source(source, 10.0, 1000)
    assert result.source == '"""About."""\nN = 2\n\ndef solve(grid):\n    """It."""\n    return scale(grid, N)\n'
    assert load_program(result.source)(((1,),)) == ((1, 1), (1, 1))
