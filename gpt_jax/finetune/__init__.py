"""How does a model that predicts text learn a task?"""
