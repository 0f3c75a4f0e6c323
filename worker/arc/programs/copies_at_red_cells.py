"""Puts a copy of the grid in the place of each red cell.

Solves cce03e0d.
"""


def solve(grid):
    x1 = tile_where(grid, 2)
    return x1
