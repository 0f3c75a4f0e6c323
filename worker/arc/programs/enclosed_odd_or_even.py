"""Fills enclosed squares red where their side is even and orange where it is odd.

Solves 868de0fa.
"""


def solve(grid):
    x1 = fill_enclosed(grid, 2)
    x2 = objects_in(x1, 2)
    x3 = of_size(x2, 1)
    x4 = of_size(x2, 9)
    x5 = of_size(x2, 25)
    x6 = of_size(x2, 49)
    x7 = paint(x1, x3, 7)
    x8 = paint(x7, x4, 7)
    x9 = paint(x8, x5, 7)
    x10 = paint(x9, x6, 7)
    return x10
