"""Which of four endings goes on from what was told? HellaSwag (Zellers et al. 2019).

python run.py --config=configs/finetune/hellaswag.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('hellaswag', rows=39_905, context=256)
    config.task.update(kind='choose', source='tfds:hellaswag', prompt='{context}', label='label', auxiliary=0.5)
    config.task.choices = tuple(f' {{endings[{number}]}}' for number in range(4))
    return config
