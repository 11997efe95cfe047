"""The `gpt-jax` program, with one file per command, and the launch flags of run.py."""
