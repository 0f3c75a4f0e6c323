"""Draws a row on along the diagonal, in a square as large as its colours ask for.

Solves feca6190.
"""


def solve(grid):
    x1 = count_filled(grid)
    x2 = times(x1, 5)
    x3 = enlarge(grid, x2, x2)
    x4 = extend_diagonally(x3)
    x5 = mirror_top_bottom(x4)
    return x5
