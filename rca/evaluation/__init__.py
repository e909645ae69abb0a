"""Measuring: splits, transforms, metrics with intervals, and the runner that keeps every prediction."""
