"""Answers one for a symmetric grid and seven for another.

Solves 44f52bb0.
"""


def solve(grid):
    x1 = is_symmetric(grid)
    x2 = blank(1, 1, 1)
    x3 = blank(1, 1, 7)
    x4 = choose(x1, x2, x3)
    return x4
