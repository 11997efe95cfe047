"""The command of lm-evaluation-harness, with this library's models registered as `gpt_jax`.

example:
  gpt-jax lm-eval run --model gpt_jax --model_args pretrained=runs/gpt_tiny --tasks hellaswag
"""

import sys
from collections.abc import Sequence

from gpt_jax.core.errors import UserError


def run(words: Sequence[str]) -> None:
    """Run lm_eval with this library's model registered.

    Args:
      words: lm_eval's own arguments.

    Raises:
      UserError: lm_eval is not installed, or a model argument is invalid.
    """
    try:
        import lm_eval.models  # noqa: F401 - registers its models before ours
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise UserError(f"{error}; install it with pip install -e '.[eval]'") from None
    from gpt_jax.evaluation import lm_eval_adapter

    register_model('gpt_jax')(lm_eval_adapter.LmEvalModel)
    sys.argv = ['lm_eval', *words]
    cli_evaluate()
