"""Colours what lies inside objects azure.

Solves 50cb2852.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = insides(x1)
    x3 = paint(grid, x2, 8)
    return x3
