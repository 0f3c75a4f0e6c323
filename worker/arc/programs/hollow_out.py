"""Empties what lies inside objects.

Solves 4347f46a.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = insides(x1)
    x3 = paint(grid, x2, 0)
    return x3
