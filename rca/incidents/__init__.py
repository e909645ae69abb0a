"""Incidents: what happened, what it turned out to be, and the telemetry around it."""
