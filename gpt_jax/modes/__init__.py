"""What each --mode of run.py does with a config: one file per mode."""
