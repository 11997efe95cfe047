"""Many runs from one command. Knows commands and folders, not JAX."""
