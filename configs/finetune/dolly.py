"""What is the answer to an instruction? Dolly 15k (Conover et al. 2023), with what it refers to, if anything.

python run.py --config=configs/finetune/dolly.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('dolly', rows=13_500, context=512)
    config.task.update(kind='answer', source='tfds:databricks_dolly', answer=' {response}')
    config.task.prompt = '{context}\n\nInstruction: {instruction}\nResponse:'
    config.task.metrics = ('rougeL', 'f1')
    return config
