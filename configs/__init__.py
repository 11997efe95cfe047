"""Config files: values only. Each has a get_config() that returns an ml_collections ConfigDict."""
