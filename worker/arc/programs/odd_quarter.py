"""Keeps the one of four quarters that differs.

Solves 2dc579da and 88a62173.
"""


def solve(grid):
    x1 = left_half(grid)
    x2 = right_half(grid)
    x3 = top_half(x1)
    x4 = bottom_half(x1)
    x5 = top_half(x2)
    x6 = bottom_half(x2)
    x7 = odd_one_out(x3, x4, x5, x6)
    return x7
