"""Evaluation of models: task suites, bias, contamination, memorization, lm-eval adapter."""
