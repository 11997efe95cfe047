"""Config, errors, files, hardware table, counts and progress; imported by every package."""
