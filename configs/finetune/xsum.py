"""What is an article about, in one sentence? XSum (Narayan et al. 2018).

python run.py --config=configs/finetune/xsum.py --config.init_from=runs/gpt2

TFDS wants its texts in its manual folder first; what it says on preparing tells where they come from.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('xsum', rows=203_577, context=1024, epochs=1)
    config.task.update(kind='answer', source='tfds:xsum', cut='right')
    config.task.update(prompt='{document}\n\nTL;DR:', answer=' {summary}')
    config.task.metrics = ('rougeL', 'rouge1', 'rouge2')
    return config
