"""How does a model write? From prompts to text, by sampling, beams or drafts, with a cache of fixed shape."""
