"""The queue on disk: all the SQL there is. One writer thread; readers have connections of their own.

`protocol` says what a store is; `store.Store` is the one on SQLite.
"""

from batt_supervisor.store.store import Store

__all__ = ["Store"]
