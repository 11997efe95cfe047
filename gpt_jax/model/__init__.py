"""The transformer, as pure functions of (params, inputs)."""
