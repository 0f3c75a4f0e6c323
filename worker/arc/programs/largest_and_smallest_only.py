"""Colours the largest and the smallest object, and takes out the rest.

Solves a61f2674.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = height(grid)
    x3 = width(grid)
    x4 = blank(x2, x3, 0)
    x5 = largest(x1)
    x6 = smallest(x1)
    x7 = paint(x4, x5, 1)
    x8 = paint(x7, x6, 2)
    return x8
