"""Colours objects of six cells red and all others blue.

Solves d2abd087.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = of_size(x1, 6)
    x3 = recolour_filled(grid, 1)
    x4 = paint(x3, x2, 2)
    return x4
