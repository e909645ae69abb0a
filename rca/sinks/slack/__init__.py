"""Slack: one message per incident, updated rather than repeated."""
