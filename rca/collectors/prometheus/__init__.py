"""Metrics from Prometheus and what speaks its API (Mimir, Thanos, VictoriaMetrics), by a map from PromQL to canonical metrics."""
