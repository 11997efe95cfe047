"""Scaling laws of finished runs, plans of further runs, and reports; does not import JAX."""
