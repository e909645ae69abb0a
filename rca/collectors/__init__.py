"""Collectors: telemetry from files and live systems into rca.telemetry.Telemetry."""
