"""The `gpt-jax` program, one file per command, and the launch flags of run.py."""
