"""Plans of runs and sweeps for a compute budget: shapes, trials and config files."""
