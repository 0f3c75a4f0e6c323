"""Task functions that behave, and every way we know in which they do not. Workers import them by PYTHONPATH."""
