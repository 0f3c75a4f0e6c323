"""Reads what the machine has left. Decides nothing."""
