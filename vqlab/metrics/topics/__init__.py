"""Metrics of topics."""
