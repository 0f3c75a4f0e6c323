"""Colours the inside of the larger and of the smaller object.

Solves 694f12f3.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = insides(x1)
    x3 = largest(x2)
    x4 = smallest(x2)
    x5 = paint(grid, x4, 1)
    x6 = paint(x5, x3, 2)
    return x6
