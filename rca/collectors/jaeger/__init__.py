"""Traces kept by Jaeger, or by what speaks its query API."""
