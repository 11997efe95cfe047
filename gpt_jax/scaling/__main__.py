"""python -m gpt_jax.scaling: see cli.py."""

from gpt_jax.scaling.cli import main

if __name__ == '__main__':
    main()
