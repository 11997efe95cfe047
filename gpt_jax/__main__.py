"""`gpt-jax COMMAND`, or `python -m gpt_jax COMMAND`."""

from gpt_jax.core import interruption


def main() -> None:
    """Run one command, with signals handled before anything else is imported."""
    interruption.install('gpt-jax')
    from gpt_jax.cli.main import main as run_program

    run_program()


if __name__ == '__main__':
    main()
