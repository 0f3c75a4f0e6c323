"""batt-supervisor: runs batches of CPU-heavy tasks in isolated workers and keeps every result."""

__version__ = "0.1.0"
