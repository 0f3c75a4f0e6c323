"""Colours what lies inside objects red.

Solves bb43febb.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = insides(x1)
    x3 = paint(grid, x2, 2)
    return x3
