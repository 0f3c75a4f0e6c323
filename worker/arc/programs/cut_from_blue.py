"""Takes blue for background and cuts out what is left.

Solves a740d043.
"""


def solve(grid):
    x1 = recolour(grid, 1, 0)
    x2 = trim(x1)
    return x2
