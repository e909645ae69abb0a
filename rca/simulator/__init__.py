"""Simulated incidents: unlimited, labelled, over random systems. docs/simulator.md says what is modelled and what is not."""

from __future__ import annotations

from rca.simulator.config import CONFIG, Config
from rca.simulator.faults import SIMULATED
from rca.simulator.simulating import simulate

__all__ = ["CONFIG", "SIMULATED", "Config", "simulate"]
