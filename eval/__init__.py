"""Adapter against base on held-out rows: predictions, metrics, statistics, verdict, report."""
