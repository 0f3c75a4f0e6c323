"""Lists the filled cells in one row.

Solves d631b094.
"""


def solve(grid):
    x1 = filled_across(grid)
    return x1
