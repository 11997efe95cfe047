"""Sweeps: trials, their claims and ledger, and the workers that run them. No JAX."""
