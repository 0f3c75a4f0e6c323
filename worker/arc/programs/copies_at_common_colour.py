"""Puts a copy of the grid in the place of each cell of its commonest colour.

Solves 007bbfb7 and c3e719e8.
"""


def solve(grid):
    x1 = most_common_colour(grid)
    x2 = tile_where(grid, x1)
    return x2
