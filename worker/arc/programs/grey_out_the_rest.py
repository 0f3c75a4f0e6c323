"""Keeps the most common colour, and greys out all others.

Solves 9565186b.
"""


def solve(grid):
    x1 = most_common_colour(grid)
    x2 = recolour_others(grid, x1, 5)
    return x2
