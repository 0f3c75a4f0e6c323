"""Slots: start, watch and end attempts in isolated workers. The wall, seen from outside."""
