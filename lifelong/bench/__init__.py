"""Suites, the runner, published tables and reports."""
