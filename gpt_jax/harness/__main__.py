"""How is lm_eval's command started with our models in it? It takes models from other packages in no other way."""

import sys

from gpt_jax import errors


def main() -> None:
    """lm_eval's command. What is wrong with a model's arguments is said in one line."""
    try:
        import lm_eval.models  # noqa: F401 - registers its own, which it leaves out where somebody has registered one
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import register_model
    except ImportError as error:
        print(f"gpt_jax.harness: {error}; pip install -e '.[eval]' brings lm_eval", file=sys.stderr)
        sys.exit(errors.EXIT_BAD_INPUT)
    from gpt_jax.harness.model import Model

    register_model('gpt_jax')(Model)
    try:
        with errors.memory_named():
            cli_evaluate()
    except (errors.UserError, errors.OutOfMemory) as error:
        print(f'gpt_jax.harness: {error}', file=sys.stderr)
        sys.exit(errors.EXIT_BAD_INPUT if isinstance(error, errors.UserError) else errors.EXIT_OUT_OF_MEMORY)


if __name__ == '__main__':
    main()
