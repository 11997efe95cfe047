"""Which sentence goes on? Docstrings of Python's library (gpt_jax/data/made/choices.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=1024 --config.train.batch=2 --workdir=runs/tiny_1024
python run.py --config=configs/finetune/choices.py --config.init_from=runs/tiny_1024

Four endings on one subject are much to ask of 0.8M parameters: they stay at chance, where they were before tuning.
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('choices', context=1024, steps=200)
    config.task.update(kind='choose', source='made:choices', prompt='{context}', label='label', auxiliary=0.5)
    config.task.choices = tuple(f' {{endings[{number}]}}' for number in range(4))
    config.train.update(batch=8, microbatch=1)
    return config
