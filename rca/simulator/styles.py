"""Styles of systems, and of how they are recorded, that are unlike the rest: each changes some of the ranges of a Config.

A style draws as freely as everything else; it only moves the ranges to where such systems lie, so that training sees them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

import numpy as np

from rca.errors import UnknownName
from rca.simulator.config import Config, Range, StyleShares
from rca.simulator.faults import SIMULATED

ORDINARY: Final = "ordinary"
"""The style that changes nothing."""


def _managed(config: Config) -> Config:
    """A cloud's monitoring of what its customer runs, and of what it runs itself: for everything a rate, a mean duration and a
    success ratio every five minutes, and nothing inside. Nearly every call is needed for an answer, and waits for the one before:
    callers get slow and fail as much as the cause. Pods and nodes are not seen, so none is at fault.
    """
    return replace(
        config,
        topology=replace(
            config.topology,
            services=Range(6, 45, log=True),
            shapes=("layered", "chain", "mesh"),
            depth=Range(4, 7),
            replica_shares=(0.7, 0.3),
            operations=Range(1, 2, log=True),
            service_calls=Range(0.5, 1.1),
            certain_share=0.97,
            optional_share=0.03,
            parallel_share=0.1,
            database_share=0.5,
            cache_share=0.06,
            external_share=0.35,
            own_pods_share=0.0,
        ),
        load=replace(config.load, requests_per_second=Range(0.3, 20, log=True), retry_share=0.2),
        telemetry=replace(
            config.telemetry,
            bin_seconds=60,
            baseline_minutes=Range(120, 600, log=True),
            window_minutes=Range(15, 45),
            onset_error_seconds=Range(-300, 300),
            no_traces=1.0,
            no_metrics=0.0,
            no_logs=1.0,
            no_events=0.85,
            no_alerts=0.7,
            call_metrics=0.0,
            request_metrics=1.0,
            measured_from_outside=1.0,
            scrape_seconds=(300,),
        ),
        faults=replace(config.faults, ramp_minutes=Range(2, 10), one_operation_share=0.1),
        kinds=config.kinds or _kinds_but("noisy_neighbour", "clock_skew", "telemetry_pipeline"),
    )


def _alerts_only(config: Config) -> Config:
    """Alerts of an incident, most without a time, and how often each fires in other incidents of the system. Nothing quiet to
    compare with. Some alerts fire all the time.
    """
    return replace(
        config,
        topology=replace(config.topology, services=Range(5, 30, log=True), instances_share=0.6, own_pods_share=0.75),
        telemetry=replace(
            config.telemetry, baseline_minutes=Range(2, 2), window_minutes=Range(2, 5), alerts_alone=1.0, onset_known_share=1.0
        ),
        kinds=config.kinds or _kinds_but("noisy_neighbour", "clock_skew", "telemetry_pipeline"),
    )


def _sparse(config: Config) -> Config:
    """Few requests, and windows of a few minutes: hardly anything is seen twice. Usual log lines are rare; what throws an
    exception logs nothing, its callers do. Spans often do not say whether they failed.
    """
    return replace(
        config,
        load=replace(config.load, requests_per_second=Range(0.2, 2.0, log=True)),
        telemetry=replace(
            config.telemetry,
            baseline_minutes=Range(3, 40, log=True),
            window_minutes=Range(1, 3),
            no_traces=0.0,
            no_logs=0.1,
            sampled_share=0.1,
            sampling=Range(0.3, 0.8),
            spans_without_status=0.5,
            silent_failures=0.85,
            logs_failed_calls=0.9,
            talkative=0.5,
            rare_lines=0.8,
            background_lines=Range(0.01, 0.3, log=True),
        ),
    )


def _large(config: Config) -> Config:
    """Forty services and more, calls within calls within calls, and faults that show on few of many operations."""
    return replace(
        config,
        topology=replace(
            config.topology,
            services=Range(40, 80, log=True),
            shapes=("layered", "chain", "mesh"),
            depth=Range(6, 10),
            chain_depth=Range(8, 12),
            operations=Range(2, 4),
            service_calls=Range(0.8, 1.4),
            calls_per_request=60.0,
            replica_shares=(0.8, 0.2),
        ),
        load=replace(config.load, requests_per_second=Range(1.0, 10.0, log=True)),
        telemetry=replace(config.telemetry, no_traces=0.0, window_minutes=Range(1, 6, log=True), baseline_minutes=Range(3, 20)),
        faults=replace(config.faults, one_operation_share=0.9, any_operation_share=0.8),
    )


STYLES: Final[dict[str, Callable[[Config], Config]]] = {
    "managed": _managed,
    "alerts_only": _alerts_only,
    "sparse": _sparse,
    "large": _large,
}
"""What each style makes of a configuration."""


def _kinds_but(*left_out: str) -> tuple[str, ...]:
    return tuple(kind for kind in SIMULATED if kind not in left_out)


def draw_style(rng: np.random.Generator, shares: StyleShares) -> str:
    """The style of one system, ORDINARY for the rest."""
    place, edge = float(rng.random()), 0.0
    for style, share in asdict(shares).items():
        edge += share
        if place < edge:
            return str(style)
    return ORDINARY


def styled(config: Config, style: str) -> Config:
    """The configuration of systems of that style."""
    return config if style == ORDINARY else STYLES[style](config)


def only(style: str) -> StyleShares:
    """Shares with which every system is of that style. Raises UnknownName."""
    if style != ORDINARY and style not in STYLES:
        raise UnknownName("simulated style", style, (ORDINARY, *STYLES))
    return StyleShares(**{name: float(name == style) for name in STYLES})
