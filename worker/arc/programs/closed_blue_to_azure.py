"""Recolours blue objects that have a hole, on any ground.

Solves b2862040.
"""


def solve(grid):
    x1 = objects_in(grid, 1)
    x2 = with_hole(x1)
    x3 = paint(grid, x2, 8)
    return x3
