"""Cuts out a small picture, and puts it in the place of each of its own cells.

Solves 8f2ea7aa and c3e719e8.
"""


def solve(grid):
    x1 = trim(grid)
    x2 = most_common_colour(x1)
    x3 = tile_where(x1, x2)
    return x3
