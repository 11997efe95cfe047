"""Config files, which hold only values.

Each has a get_config() that returns an ml_collections ConfigDict.
"""
