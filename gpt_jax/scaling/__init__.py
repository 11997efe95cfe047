"""Scaling laws of finished runs, plans of the next ones, and reports; without JAX."""
