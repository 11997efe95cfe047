"""What does a compiled program do? Reads XLA's text of it: no JAX, and no idea what a GPT is."""
