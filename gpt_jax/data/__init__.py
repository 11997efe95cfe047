"""From text to batches: read, hold out, tokenize once, cut into windows. Imports no JAX of its own."""
