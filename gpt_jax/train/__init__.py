"""Training: step, objective, loop, layout on devices, checkpoints and metrics."""
