"""Lays the four quarters over each other, the upper left one topmost.

Solves a68b268e.
"""


def solve(grid):
    x1 = left_half(grid)
    x2 = right_half(grid)
    x3 = bottom_half(x2)
    x4 = bottom_half(x1)
    x5 = top_half(x2)
    x6 = top_half(x1)
    x7 = overlay(x3, x4)
    x8 = overlay(x7, x5)
    x9 = overlay(x8, x6)
    return x9
