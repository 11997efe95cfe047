"""Data pipeline from text to batches: sources, tokenizers, token cache and loader. No JAX."""
