"""Intrinsic against extrinsic anomaly, after PRISM's graph-free rule: a cause is anomalous inside, and it shows outside.

Signals of a candidate fall into two pools: what happens inside it (resources, self time, own errors, log templates) and what its
neighbours can see of it (latency, failures, traffic). The loudest signal speaks for its pool.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np

from rca.contracts import Case
from rca.models.rules.rule import Rule, Values
from rca.signals import NODE_COLUMN

INSIDE: Final = (
    *("cpu", "memory", "disk", "network", "sockets", "other"),
    *("self_time", "self_time_fall", "own_errors", "vanished_calls", "warnings", "changes"),
    *("vanished_templates", "new_templates", "error_lines", "log_volume"),
    *("alert_cpu", "alert_memory", "alert_disk", "alert_network_in", "alert_network_out"),
    *("alert_slow_own", "alert_failed_own", "alert_logs"),
)
"""Signals that arise inside an entity."""
OUTSIDE: Final = (
    *("metric_server_latency", "metric_client_latency", "metric_success", "metric_errors"),
    *("metric_traffic", "metric_client_traffic", "metric_gap"),
    *("server_latency", "leaf_latency", "gap_in", "gap_out", "errors", "unanswered_calls", "traffic"),
    "new_calls",
    *("alert_traffic_in", "alert_traffic_out", "alert_latency_in", "alert_latency_out", "alert_errors_in", "alert_errors_out"),
    *("alert_slow_calls_in", "alert_slow_calls_out", "alert_failed_calls_in", "alert_failed_calls_out"),
)
"""Signals at the interface of an entity.

In neither pool: residuals and `quiet_callees`, which need the graph, `gap_in_all`, which repeats `gap_in`, alerts of no known
sort, and how unusual alerts are, which the rule does not weigh.
"""


class _Prism(Rule):
    def scores(self, case: Case) -> Values:
        loud = np.log1p(np.abs(np.nan_to_num(case.deviations.node[case.graph.candidate_rows])))
        return self.joined(_pool(loud, INSIDE), _pool(loud, OUTSIDE))

    @abstractmethod
    def joined(self, intrinsic: Values, extrinsic: Values) -> Values:
        """One score of the two pools, (C,)."""


def _pool(loud: Values, signals: Sequence[str]) -> Values:
    pooled: Values = loud[:, [NODE_COLUMN[signal] for signal in signals]].max(axis=1, initial=0.0)
    return pooled


class PrismAdditive(_Prism):
    """The sum of the pools: one loud pool is enough."""

    name = "prism-additive"

    def joined(self, intrinsic: Values, extrinsic: Values) -> Values:
        return intrinsic + extrinsic


class PrismConjunctive(_Prism):
    """The geometric mean of the pools: both have to speak."""

    name = "prism-conjunctive"

    def joined(self, intrinsic: Values, extrinsic: Values) -> Values:
        joined: Values = np.sqrt(intrinsic * extrinsic)
        return joined
