"""Programs bred from programs, as a search for solutions makes them: most are wrong, some fail, a few never end.

Everything random comes from the `random.Random` that is handed in, and nothing depends on the order of a set or on
hashes: one seed gives the same programs in every process.
"""

import ast
import inspect
import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from worker.arc.dsl import FUNCTIONS

# Shares that make a realistic mix: some 80 % wrong, 10 to 15 % failing, 3 to 10 % right, 1 % without end.
_LOOPS: Final = 0.05
_SPLICES: Final = 0.3
_OTHER_KIND: Final = 0.02


_PICKY: Final = frozenset(
    {
        "band_across",
        "band_down",
        "by_size",
        "cut_where",
        "enlarge",
        "odd_one_out",
        "restore_mirror",
        "restore_tiling",
        "shrink",
        "tile_where",
    }
)
"""Functions that refuse most grids. Programs with them are drawn less often, or too many mutants would only fail."""


class Line(NamedTuple):
    """One assignment: a function of the DSL and its arguments as text.

    An argument is "grid", a number, the name of a function, or "x3": what line 3, counted from 1, gave.
    """

    function: str
    arguments: tuple[str, ...]


Program = tuple[Line, ...]

_SIGNATURES: Final[dict[str, tuple[tuple[str, ...], str]]] = {}
for _name, _function in FUNCTIONS.items():
    _kinds = [str(p.annotation) for p in inspect.signature(_function, eval_str=False).parameters.values()]
    _SIGNATURES[_name] = (tuple(_kinds), str(inspect.signature(_function).return_annotation))

_GRID: Final = _SIGNATURES["turn_half"][1]
_INT: Final = _SIGNATURES["height"][1]
_STEPS: Final = sorted(name for name, signature in _SIGNATURES.items() if signature == ((_GRID,), _GRID))


def parse(source: str) -> Program:
    """The lines of a program that is a straight run of `x1 = function(...)`, `x2 = ...` and returns the last of them.

    Raises:
        ValueError: It has another form.
    """
    body = next(node.body for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    lines = []
    for number, statement in enumerate(body[:-1], start=1):
        match statement:
            case ast.Assign(
                targets=[ast.Name(id=target)], value=ast.Call(func=ast.Name(id=function), args=arguments, keywords=[])
            ) if target == f"x{number}" and function in FUNCTIONS:
                lines.append(Line(function, tuple(ast.unparse(argument) for argument in arguments)))
            case _:
                raise ValueError(f"line {statement.lineno} is not `x{number} = function(...)`")
    match body[-1]:
        case ast.Return(value=ast.Name(id=name)) if name == f"x{len(lines)}":
            return tuple(lines)
    raise ValueError("the program does not return what its last line gave")


def render(program: Program) -> str:
    """The source text of a program."""
    lines = [f"    x{number} = {f}({', '.join(a)})\n" for number, (f, a) in enumerate(program, start=1)]
    return f"def solve(grid):\n{''.join(lines)}    return x{len(program)}\n"


def mutant(rng: random.Random, programs: Mapping[str, Program], parent: str | None = None) -> str:
    """The source of a program bred from `parent`, or from any of `programs`, with others of them."""
    program = programs[parent] if parent is not None else _draw(rng, programs)
    if rng.random() < (_SPLICES if parent is None else _SPLICES / 3):
        program = splice(rng, program, _draw(rng, programs))
    for _ in range(rng.choice((0, 1, 1, 2)) if parent is not None else rng.choice((1, 1, 2))):
        program = rng.choice((swap_call, change_constant, change_constant, drop_line, rewire))(rng, program)
    if rng.random() < _LOOPS:
        program = loop(rng, program)
    return render(program)


def splice(rng: random.Random, first: Program, second: Program) -> Program:
    """The beginning of one program, and the other one going on with the last grid that it gave."""
    cut = rng.randint(1, len(first))
    head = first[:cut]
    grids = [number for number in range(1, cut + 1) if _kind(head, number) == _GRID]
    entry = f"x{grids[-1]}" if grids else "grid"
    names = {"grid": entry, **{f"x{n}": f"x{n + cut}" for n in range(1, len(second) + 1)}}
    return head + tuple(Line(f, tuple(names.get(a, a) for a in arguments)) for f, arguments in second)


def swap_call(rng: random.Random, program: Program) -> Program:
    """Another function of the same kinds in one line, if there is one."""
    place = rng.randrange(len(program))
    line = program[place]
    signature = _SIGNATURES[line.function]
    others = [name for name in sorted(_SIGNATURES) if _SIGNATURES[name] == signature and name != line.function]
    others = [name for name in others if name != "repeat_until_stable"]
    return _replaced(program, place, line._replace(function=rng.choice(others))) if others else program


def change_constant(rng: random.Random, program: Program) -> Program:
    """Another number in the place of one, if there is any."""
    places = [
        (place, index)
        for place, line in enumerate(program)
        for index, argument in enumerate(line.arguments)
        if _is_number(argument)
    ]
    if not places:
        return program
    place, index = rng.choice(places)
    line = program[place]
    old = int(line.arguments[index])
    new = str(rng.choice((old + 1, abs(old - 1), rng.randint(0, 9))))
    return _replaced(program, place, line._replace(arguments=_replaced(line.arguments, index, new)))


def drop_line(rng: random.Random, program: Program) -> Program:
    """One line left out, if an earlier value of the kind, or the grid itself, can stand in for it."""
    if len(program) == 1:
        return program
    place = rng.randrange(len(program))
    number = place + 1
    kind = _kind(program, number)
    earlier = [n for n in range(1, number) if _kind(program, n) == kind]
    if not earlier and kind != _GRID:
        return program
    stand_in = f"x{earlier[-1]}" if earlier else "grid"
    names = {f"x{number}": stand_in, **{f"x{n}": f"x{n - 1}" for n in range(number + 1, len(program) + 1)}}
    kept = program[:place] + program[number:]
    shorter = tuple(Line(f, tuple(names.get(a, a) for a in arguments)) for f, arguments in kept)
    return shorter if _kind(shorter, len(shorter)) == _GRID else program


def rewire(rng: random.Random, program: Program) -> Program:
    """One argument taken from elsewhere: mostly of the same kind, now and then of another."""
    place = rng.randrange(len(program))
    line = program[place]
    index = rng.randrange(len(line.arguments))
    kinds = _SIGNATURES[line.function][0]
    any_kind = rng.random() < _OTHER_KIND
    choices = ["grid"] if any_kind or kinds[index : index + 1] == (_GRID,) else []
    choices += [f"x{n}" for n in range(1, place + 1) if any_kind or (_kind(program, n),) == kinds[index : index + 1]]
    if not choices:
        return program
    return _replaced(program, place, line._replace(arguments=_replaced(line.arguments, index, rng.choice(choices))))


def loop(rng: random.Random, program: Program) -> Program:
    """A step repeated until nothing changes, on the result or on the grid to begin with; it may go on for ever."""
    step = rng.choice(_STEPS)
    if rng.random() < 0.5:
        return (*program, Line("repeat_until_stable", (step, f"x{len(program)}")))
    return splice(rng, (Line("repeat_until_stable", (step, "grid")),), program)


def _draw(rng: random.Random, programs: Mapping[str, Program]) -> Program:
    names = list(programs)
    drawn = programs[rng.choice(names)]
    return programs[rng.choice(names)] if any(line.function in _PICKY for line in drawn) else drawn


def _replaced(items: tuple, place: int, item: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:place], item, *items[place + 1 :])


def _kind(program: Program, number: int) -> str:
    return _SIGNATURES[program[number - 1].function][1]


def _is_number(argument: str) -> bool:
    return argument.lstrip("-").isdigit()
