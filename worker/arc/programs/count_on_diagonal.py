"""Counts the objects, and draws a diagonal of that length.

Solves d0f5fe59.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = how_many(x1)
    x3 = diagonal(x2, 8)
    return x3
