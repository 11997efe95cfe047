"""From a budget to runs: shapes, sweeps, config files."""
