"""Counting alerts: what a person with a dashboard does first."""

from __future__ import annotations

import numpy as np

from rca.contracts import Case
from rca.models.rules.rule import Rule, Values, alert_counts, candidate_calls


class MostAlerts(Rule):
    """The candidate with the most alerts."""

    name = "most-alerts"

    def scores(self, case: Case) -> Values:
        return alert_counts(case)


class SimpleRca(Rule):
    """Alert counting along the call chain, after SimpleRCA (Fang et al., arXiv 2510.04711).

    A service whose callees alert as well is explained by them: those alerts are handed on, in equal parts, to the callees that
    alert, and half of a service's own alerts stay. So the deepest alerting service of a chain collects the most.
    """

    name = "simple-rca"
    handed_on = 0.5

    def scores(self, case: Case) -> Values:
        counts = alert_counts(case)
        callers, callees = candidate_calls(case.graph)
        guilty = counts[callees] > 0
        callers, callees = callers[guilty], callees[guilty]
        explained = np.bincount(callers, minlength=len(counts))
        share = self.handed_on * counts / np.maximum(explained, 1)
        kept = np.where(explained > 0, (1 - self.handed_on) * counts, counts)
        received = np.bincount(callees, weights=share[callers], minlength=len(counts))
        return kept + received
