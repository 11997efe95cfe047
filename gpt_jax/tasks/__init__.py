"""Tasks: templates, chat, examples, few-shot prompts, metrics and synthetic datasets."""
