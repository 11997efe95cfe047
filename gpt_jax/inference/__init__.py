"""Inference: pretrained models, text generation with a KV cache, and scoring."""
