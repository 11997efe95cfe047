"""Training, evaluation and sweeps of a config in a folder; the modes of run.py."""
