"""How does a function go on? Programs in files of yours, laid out as in HumanEval (Chen et al. 2021).

python run.py --config=configs/finetune/code_files.py --config.init_from=runs/gpt2

A line is {"prompt": "def f(x):\\n", "canonical_solution": "    return x\\n", "test": "def check(candidate): ...",
"entry_point": "f"}, as HumanEval's own, which TFDS has not. `rows`, of which the steps are reckoned, are to be yours.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('code_files', rows=10_000, context=1024)
    config.task.update(kind='answer', source='files:code/*.jsonl', prompt='{prompt}')
    config.task.answer = '{canonical_solution}'
    config.task.program = '{prompt}{written}\n{test}\ncheck({entry_point})\n'
    config.task.metrics = ('pass@1', 'exact_match')
    return config
