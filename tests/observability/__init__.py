"""Metrics, logs and access log."""
