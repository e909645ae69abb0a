"""Kubernetes: events, changes and placement, by list and by watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rca.collectors.kubernetes.collector import KubernetesCollector
    from rca.collectors.kubernetes.watching import Watching

__all__ = ["KubernetesCollector", "Watching"]


def __getattr__(name: str) -> Any:
    """The settings of this package are read far more often than a cluster: the rest is imported when it is used."""
    if name in __all__:
        from rca.collectors.kubernetes import collector

        return getattr(collector, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
