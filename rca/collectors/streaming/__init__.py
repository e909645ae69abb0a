"""Spans as they arrive, joined to their parents across batches with a bounded wait, and summed into bins."""
