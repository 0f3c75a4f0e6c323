"""Lists the colours by count, without the most common.

Solves f8b3ba0a.
"""


def solve(grid):
    x1 = colours_down(grid)
    x2 = height(x1)
    x3 = plus(x2, -1)
    x4 = crop(x1, 1, 0, x3, 1)
    return x4
