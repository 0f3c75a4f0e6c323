"""Scales the grid by how many colours it has.

Solves b91ae062 and ac0a08a4.
"""


def solve(grid):
    x1 = count_colours(grid)
    x2 = scale(grid, x1)
    return x2
