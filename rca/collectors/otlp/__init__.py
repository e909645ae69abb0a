"""OpenTelemetry's protocol: export requests over gRPC and HTTP, decoded to frames and handed on to an intake."""
