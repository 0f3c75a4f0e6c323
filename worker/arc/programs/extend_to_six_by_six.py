"""Doubles the room, and draws cells on along the diagonal.

Solves d13f3404.
"""


def solve(grid):
    x1 = enlarge(grid, 6, 6)
    x2 = extend_diagonally(x1)
    return x2
