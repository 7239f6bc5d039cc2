"""The embedded database of a data directory; `open_store` is the way in."""

from fleet.store.store import Store, open_store

__all__ = ["Store", "open_store"]
