"""Function bodies in your files, with the columns of HumanEval (Chen et al. 2021).

python run.py --config=configs/finetune/code_files.py --config.init_from=runs/gpt2

A line is {"prompt": "def f(x):\\n", "canonical_solution": "    return x\\n",
           "test": "def check(candidate): ...", "entry_point": "f"}

TFDS does not have HumanEval. Set `rows` to the number of your lines; it determines the number of
steps.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('code_files', rows=10_000, context=1024)
