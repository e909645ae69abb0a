"""Loopback servers that speak a documented shape, for sources that cannot be run here."""
