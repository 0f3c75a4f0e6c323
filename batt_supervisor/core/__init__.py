"""Decisions: plain values in, plain values out. No I/O, no clock, no threads, nothing of the other packages."""
