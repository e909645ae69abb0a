"""The embedded store of live telemetry: Parquet partitions by hour, one writer, readers in any process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rca.collectors.warm.store import Store, StoreCollector

__all__ = ["Store", "StoreCollector"]


def __getattr__(name: str) -> Any:
    """The settings of this package are read far more often than the store: polars is imported with the store alone."""
    if name in __all__:
        from rca.collectors.warm import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
