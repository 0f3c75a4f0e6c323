"""The reference workload: programs that turn one coloured grid into another, scored on the tasks of ARC-AGI-1."""
