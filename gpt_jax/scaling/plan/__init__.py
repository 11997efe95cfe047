"""Plans of runs and sweeps for a compute budget: shapes, trials and config files."""

# Here, so that `gpt-jax plan --help` shows them without importing what plans.
DEFAULT_CONTEXT, DEFAULT_VOCAB = 2048, 50257  # without flags, runs or a base
DEFAULT_SIZES, DEFAULT_SPAN = 5, 3.0  # of an isoFLOP sweep; isoflop_plan.py explains them
