"""Recolours green objects of three and more cells.

Solves 67385a82.
"""


def solve(grid):
    x1 = objects_in(grid, 3)
    x2 = larger_than(x1, 2)
    x3 = paint(grid, x2, 8)
    return x3
