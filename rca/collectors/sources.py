"""The sources that a configuration names, as collectors. A source's module is imported when its table is there.

Other packages add sources by the entry point group `rca.collectors`: the name, and a class or function that takes the settings of
`[sources.<name>]` as parameters and returns a contracts.Collector. A source whose `holds_traces` is True is asked only where
no source before it had traces.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any, Final

from rca.collectors.config import Config
from rca.contracts import Collector
from rca.errors import BadInput, UnknownName

ENTRY_POINT_GROUP: Final = "rca.collectors"

BUILT_IN: Final[dict[str, str]] = {
    "store": "rca.collectors.warm.store:StoreCollector",
    "tempo": "rca.collectors.tempo.collector:TempoCollector",
    "jaeger": "rca.collectors.jaeger.collector:JaegerCollector",
    "prometheus": "rca.collectors.prometheus.collector:PrometheusCollector",
    "alertmanager": "rca.collectors.alertmanager.collector:AlertmanagerCollector",
    "kubernetes": "rca.collectors.kubernetes.collector:KubernetesCollector",
}
"""Table of rca.toml -> `module:class`, which takes the table's settings."""
TRACE_SOURCES: Final = ("store", "tempo", "jaeger")
"""Whose traces count, in this order: taking them from two would count them twice."""


def sources_of(config: Config) -> tuple[Collector, ...]:
    """A collector for every source of the configuration, trace sources first.

    Raises BadInput if there is none, UnknownName for a source of no known package.
    """
    found = [
        collector_of(target, settings)
        for name, target in BUILT_IN.items()
        if (settings := getattr(config, name, None)) is not None
    ]
    found += [_third_party(name, settings) for name, settings in config.sources.items()]
    if not found:
        tables = ", ".join(f"[{name}]" for name in BUILT_IN)
        found_instead = "none; [store] is what `rca collect` keeps" if config.otlp is not None else "none"
        raise BadInput("configuration", expected=f"at least one source ({tables})", found=found_instead)
    return tuple(found)


def collector_of(target: str, settings: Any) -> Collector:
    """The collector that a `module:class` names, with its settings."""
    module, _, attribute = target.partition(":")
    collector: Collector = getattr(importlib.import_module(module), attribute)(settings)
    return collector


def _third_party(name: str, settings: dict[str, Any]) -> Collector:
    known = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in known:
        raise UnknownName(f"[sources.{name}]", name, known)
    try:
        collector = known[name].load()(**settings)
    except (ImportError, AttributeError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise BadInput(f"[sources.{name}]", expected="settings that its package takes", found=found) from error
    if not isinstance(collector, Collector):
        raise BadInput(f"[sources.{name}]", expected="a collector (rca.contracts.Collector)", found=type(collector).__name__)
    return collector
