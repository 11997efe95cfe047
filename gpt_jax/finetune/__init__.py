"""What is learned of a model that was trained before: all of it, parts of it, or low-rank changes of it."""
