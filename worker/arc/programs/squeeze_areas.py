"""Cuts out the areas, and draws each as one cell.

Solves 746b3537 and 90c28cc7 and eb5a1d5d.
"""


def solve(grid):
    x1 = trim(grid)
    x2 = drop_repeats(x1)
    return x2
