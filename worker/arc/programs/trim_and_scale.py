"""Cuts out the picture at twice its size.

Solves c59eb873 and f25fbde4.
"""


def solve(grid):
    x1 = trim(grid)
    x2 = scale(x1, 2)
    return x2
