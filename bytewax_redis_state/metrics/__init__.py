"""Metrics of running flows, for Prometheus and OpenTelemetry: one table, two exporters.

================  ==================================================
file              noun
================  ==================================================
table.py          name, description and value of each metric
prometheus.py     the exporter for Prometheus
opentelemetry.py  the exporter for OpenTelemetry
================  ==================================================
"""
