"""Two grids of one size, cell by cell: a cell is true where it is not background."""

from worker.arc.dsl.basics import Grid, require_same_size


def both(a: Grid, b: Grid, colour: int) -> Grid:
    """This colour where both grids are filled."""
    require_same_size(a, b)
    return tuple(tuple(colour if x and y else 0 for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True))


def either(a: Grid, b: Grid, colour: int) -> Grid:
    """This colour where at least one grid is filled."""
    require_same_size(a, b)
    return tuple(tuple(colour if x or y else 0 for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True))


def neither(a: Grid, b: Grid, colour: int) -> Grid:
    """This colour where no grid is filled."""
    require_same_size(a, b)
    return tuple(tuple(0 if x or y else colour for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True))


def only_one(a: Grid, b: Grid, colour: int) -> Grid:
    """This colour where exactly one grid is filled."""
    require_same_size(a, b)
    return tuple(
        tuple(colour if bool(x) != bool(y) else 0 for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True)
    )


def same(a: Grid, b: Grid) -> bool:
    """Whether two grids are equal."""
    return a == b


def choose(condition: bool, yes: Grid, no: Grid) -> Grid:
    """`yes` if the condition holds, else `no`."""
    return yes if condition else no


def closest(grid: Grid, a: Grid, b: Grid) -> Grid:
    """That of two grids which agrees with `grid` in more cells; `a` if they are equally close."""
    require_same_size(grid, a)
    require_same_size(grid, b)
    return a if _agreement(grid, a) >= _agreement(grid, b) else b


def odd_one_out(a: Grid, b: Grid, c: Grid, d: Grid) -> Grid:
    """The one of four grids that no other equals, where the other three are equal."""
    grids = (a, b, c, d)
    single = [grid for grid in grids if grids.count(grid) == 1]
    if len(single) != 1:
        raise ValueError(f"{len(single)} of the four grids differ from all others, not one")
    return single[0]


def _agreement(a: Grid, b: Grid) -> int:
    return sum(x == y for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))
