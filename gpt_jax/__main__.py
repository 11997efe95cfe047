"""`python -m gpt_jax COMMAND`, the same as `gpt-jax COMMAND`."""

from gpt_jax.cli.main import main

if __name__ == '__main__':
    main()
