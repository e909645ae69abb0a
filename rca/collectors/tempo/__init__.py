"""Traces kept by Grafana Tempo."""
