"""What does a function do, in a line? Python's own library (gpt_jax/data/made/summaries.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=512 --config.train.batch=4 --workdir=runs/tiny_512
python run.py --config=configs/finetune/summaries.py --config.init_from=runs/tiny_512
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('summaries', context=512, steps=400)
    config.task.update(kind='answer', source='made:summaries')
    config.task.update(prompt='{source}\nTL;DR:', answer=' {summary}')
    config.task.metrics = ('rougeL', 'rouge1', 'rouge2')
    return config
