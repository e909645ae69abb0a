"""Traces kept by Jaeger, or by what speaks its query API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rca.collectors.jaeger.collector import JaegerCollector

__all__ = ["JaegerCollector"]


def __getattr__(name: str) -> Any:
    """The collector is imported when it is asked for: the settings beside it must stay light."""
    if name == "JaegerCollector":
        from rca.collectors.jaeger.collector import JaegerCollector

        return JaegerCollector
    raise AttributeError(name)
