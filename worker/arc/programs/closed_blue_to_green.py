"""Recolours blue objects that have a hole.

Solves 810b9b61.
"""


def solve(grid):
    x1 = objects_in(grid, 1)
    x2 = with_hole(x1)
    x3 = paint(grid, x2, 3)
    return x3
