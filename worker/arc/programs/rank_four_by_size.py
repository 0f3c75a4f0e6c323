"""Colours four objects by their size.

Solves 08ed6ac7.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = by_size(x1, 0)
    x3 = by_size(x1, 1)
    x4 = by_size(x1, 2)
    x5 = by_size(x1, 3)
    x6 = paint(grid, x2, 1)
    x7 = paint(x6, x3, 2)
    x8 = paint(x7, x4, 3)
    x9 = paint(x8, x5, 4)
    return x9
