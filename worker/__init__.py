"""The inside of the wall: all that is imported in a worker process.

Standard library only at import time (pebble comes with the pool that started the worker), and nothing of
`batt_supervisor`: a worker must start fast and must not carry the supervisor's memory.
"""
