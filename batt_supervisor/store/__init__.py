"""The queue on disk: all the SQL there is. One writer thread; readers have connections of their own."""

from batt_supervisor.store.store import Store

__all__ = ["Store"]
