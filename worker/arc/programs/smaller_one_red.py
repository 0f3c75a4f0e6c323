"""Colours the smallest object red and the others blue.

Solves b230c067.
"""


def solve(grid):
    x1 = objects_touching(grid)
    x2 = recolour_filled(grid, 1)
    x3 = smallest(x1)
    x4 = paint(x2, x3, 2)
    return x4
