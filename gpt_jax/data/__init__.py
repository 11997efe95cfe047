"""The path from text to batches: sources, tokenizers, token cache and loader. Without JAX."""
