"""How does a model that predicts text learn a task: with a head or without, all of it, parts, or low-rank changes?"""
