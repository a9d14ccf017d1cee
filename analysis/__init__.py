"""Calibration metrics, tables and dashboards, read from prediction records. Never imports torch."""
