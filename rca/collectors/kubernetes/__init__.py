"""Kubernetes: events, changes and placement, by list and by watch."""
