"""What do finished runs say about the next size up? Numpy, scipy and matplotlib only: nothing here imports JAX."""
