"""Cuts out a picture, shrinks it, and puts it in the place of each of its own cells.

Solves 80af3007.
"""


def solve(grid):
    x1 = trim(grid)
    x2 = shrink(x1, 3)
    x3 = tile_where(x2, 5)
    return x3
