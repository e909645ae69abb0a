"""Traces kept by Grafana Tempo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rca.collectors.tempo.collector import TempoCollector

__all__ = ["TempoCollector"]


def __getattr__(name: str) -> Any:
    """The collector is imported when it is asked for: the settings beside it must stay light."""
    if name == "TempoCollector":
        from rca.collectors.tempo.collector import TempoCollector

        return TempoCollector
    raise AttributeError(name)
