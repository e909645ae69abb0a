"""What collectors of stored traces share: limits, fair sampling, and the way from spans to telemetry."""
