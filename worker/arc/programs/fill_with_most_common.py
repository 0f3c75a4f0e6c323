"""Fills the grid with its most common colour.

Solves 5582e5ca.
"""


def solve(grid):
    x1 = height(grid)
    x2 = width(grid)
    x3 = most_common_colour(grid)
    x4 = blank(x1, x2, x3)
    return x4
