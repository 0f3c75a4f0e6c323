"""Colours the largest object, the middle ones and the smallest.

Solves ea32f347.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = recolour_filled(grid, 4)
    x3 = largest(x1)
    x4 = smallest(x1)
    x5 = paint(x2, x3, 1)
    x6 = paint(x5, x4, 2)
    return x6
