"""The sidecar against a service and a node made for the test."""
