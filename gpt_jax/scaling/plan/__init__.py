"""Plans of runs and sweeps for a budget: shapes, trials and config files."""
