"""Cuts out the object that is its own mirror image.

Solves 72ca375d.
"""


def solve(grid):
    x1 = objects_touching(grid)
    x2 = with_symmetry(x1)
    x3 = cut_out(x2)
    return x3
