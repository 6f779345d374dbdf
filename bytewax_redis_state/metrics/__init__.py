"""Metrics of running flows, for Prometheus and OpenTelemetry: one table, two exporters."""
