"""A program's assignments put into its return expression: `x1 = f(grid); return g(x1)` becomes `return g(f(grid))`.

Functions of the DSL are pure, so an expression may stand in every place where its name was used, as long as the
program does not grow too much by it. Whatever might mean something else afterwards (a lambda, a method call, an
iterator that is used up) is left as it is.
"""

import ast
from typing import Final, NamedTuple

_BINDS_NAMES: Final = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr)
_SUSPENDS: Final = (ast.Await, ast.Yield, ast.YieldFrom)
_ONE_SHOT: Final = frozenset(
    {
        "dir",
        "enumerate",
        "eval",
        "exec",
        "filter",
        "globals",
        "input",
        "iter",
        "locals",
        "map",
        "next",
        "open",
        "print",
        "reversed",
        "super",
        "vars",
        "zip",
    }
)


class Inlined(NamedTuple):
    """The source, whether it was inlined, and why not or what became of the size."""

    source: str
    inlined: bool
    reason: str


class _Keep(Exception):
    """The program is well formed, but stays as it is; says why."""


def inline_source(source: str, growth_limit: float, node_limit: int) -> Inlined:
    """The program with all its assignments inlined, or as it is with the reason.

    Args:
        source: The program's text.
        growth_limit: How many times its former number of syntax nodes the function may have.
        node_limit: How many nodes it may have at most.

    Raises:
        ValueError: The text is not Python, defines no or several `solve` functions, or is not straight-line.
    """
    module = _parse(source)
    function = _solve_function(module)
    body = function.body
    docstring = body[:1] if _is_docstring(body[0]) else []
    limit = int(min(growth_limit * _count(function), node_limit))
    try:
        expression = _substituted(function, body[len(docstring) :], limit - _count_without_body(function))
    except _Keep as reason:
        return Inlined(source, False, str(reason))
    except RecursionError:
        return Inlined(source, False, "an expression is nested too deeply to be worked on")
    function.body = [*docstring, ast.Return(value=expression)]
    try:
        text = ast.unparse(ast.fix_missing_locations(module)) + "\n"
        compile(text, "<inlined>", "exec")
    except (SyntaxError, RecursionError, MemoryError):
        return Inlined(source, False, "the expression would be nested deeper than Python allows")
    return Inlined(text, True, f"{_count(_solve_function(_parse(source)))} nodes became {_count(function)}")


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the program is not Python: {error}") from None
    except (RecursionError, MemoryError):
        raise ValueError("the program is nested deeper than Python allows") from None


def _solve_function(module: ast.Module) -> ast.FunctionDef:
    found = [n for n in module.body if isinstance(n, ast.FunctionDef) and n.name.startswith("solve")]
    exact = [n for n in found if n.name == "solve"]
    found = exact or found
    if len(found) != 1:
        raise ValueError(f"the program defines {len(found) or 'no'} functions `solve`, not one")
    return found[0]


def _substituted(function: ast.FunctionDef, statements: list[ast.stmt], limit: int) -> ast.expr:
    """The return expression in terms of the parameters; sizes are counted before anything is built."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    parameters = {argument.arg for argument in every if argument is not None}
    if not statements or not isinstance(statements[-1], ast.Return) or statements[-1].value is None:
        raise ValueError("the program is not straight-line: `solve` does not end with `return` and a value")
    for statement in statements:
        _require_straight_line(statement, last=statement is statements[-1])
    assigned = {
        target.id
        for statement in statements
        for target in ast.walk(statement)
        if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store)
    }
    values: dict[str, tuple[ast.expr, int]] = {}
    for statement in statements:
        name, value = _target_and_value(statement)
        _require_plain(value)
        size = 0
        for node in ast.walk(value):
            size += 1
            if isinstance(node, ast.Name):
                if node.id in values:
                    size += values[node.id][1] - 2  # its own two nodes (name, context) make room for the value's
                elif node.id in assigned and node.id not in parameters:
                    raise ValueError(f"{node.id!r} is used in line {node.lineno} before it has a value")
        if size > limit:
            raise _Keep(f"inlined, the program would have more than {max(limit, 0)} nodes in its expression")
        built = _Substitute(values).visit(value)
        if name is None:
            expression: ast.expr = built
            return expression
        values[name] = (built, size)
    raise AssertionError("unreachable: the last statement returns")


class _Substitute(ast.NodeTransformer):
    """Puts values in the place of names. A value is shared by all its places: nothing changes it afterwards, since its
    own names were replaced when it was built."""

    def __init__(self, values: dict[str, tuple[ast.expr, int]]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values[node.id][0] if node.id in self.values else node


def _require_straight_line(statement: ast.stmt, last: bool) -> None:
    allowed = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Pass)
    if isinstance(statement, ast.Return):
        if not last:
            raise ValueError(f"the program is not straight-line: line {statement.lineno} returns before the end")
    elif not isinstance(statement, allowed):
        kind = type(statement).__name__
        raise ValueError(f"the program is not straight-line: line {statement.lineno} is of the kind {kind}")
    if any(isinstance(node, _SUSPENDS) for node in ast.walk(statement)):
        raise ValueError(f"the program is not straight-line: line {statement.lineno} suspends the function")


def _target_and_value(statement: ast.stmt) -> tuple[str | None, ast.expr]:
    match statement:
        case ast.Return(value=ast.expr() as value):
            return None, value
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            return name, value
    raise _Keep(f"line {statement.lineno} is not an assignment to one name")


def _require_plain(value: ast.expr) -> None:
    for node in ast.walk(value):
        line = getattr(node, "lineno", value.lineno)
        if isinstance(node, _BINDS_NAMES):
            raise _Keep(f"line {line} binds names of its own")
        if isinstance(node, ast.Attribute):
            raise _Keep(f"line {line} uses an attribute, which may change what it belongs to")
        if isinstance(node, ast.Name) and node.id in _ONE_SHOT:
            raise _Keep(f"line {line} uses {node.id}(), whose value may be used up or change")


def _is_docstring(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _count(node: ast.AST) -> int:
    return sum(1 for _ in ast.walk(node))


def _count_without_body(function: ast.FunctionDef) -> int:
    return _count(function) - sum(_count(statement) for statement in function.body)
