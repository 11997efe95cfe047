"""What is a run doing, and how fast? Values arrive here as Python numbers: nothing here imports JAX."""
